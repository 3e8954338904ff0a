"""Sentences and tables about the results, for the study's page and for docs/study.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qqonnx.study.schemes import ALL, KMEANS, NF, PWLQ, PWLQ_PAPER, QQ, UNIQ, UQ
from qqonnx.study.variants import chosen_exponents, tails_by_bits, variant_results

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qqonnx.study.results import Results

INTACT = 0.01
"""A network is intact if its accuracy is at most this much below its float accuracy."""

_LABELS = {scheme.key: scheme.label for scheme in ALL}


def answer(results: Results) -> list[str]:
    """Return paragraphs that answer the open question with numbers."""
    outer = results.losses("normal", QQ.key, "outer_squared")
    best = results.losses("normal", KMEANS.key, "outer_squared")
    paragraphs = [
        f"QQ fails at the tails. On normal values at 4 bits, its two outermost bins hold "
        f"{100 * 2 / 16:.1f} % of the values and {100 * outer[4]:.0f} % of the squared error "
        f"(k-means: {100 * best[4]:.0f} %). At 8 bits they still hold {100 * outer[8]:.0f} %: more "
        "bits refine the bins with the least error."
    ]
    tails = tails_by_bits(results, QQ.key)
    if 4 in tails:
        row = tails[4]
        paragraphs.append(
            f"In the networks' weights at 4 bits, these bins hold {100 * row['squared']:.0f} % of "
            f"the squared error, and {100 * row['weighted']:.0f} % if the error is weighted with "
            f"the activations' second moments. With these bins left in float, the KL to the float "
            f"outputs falls from {row['kl_all']:.3g} to {row['kl_inner']:.3g} nats "
            f"({100 * (1 - row['kl_inner'] / row['kl_all']):.0f} % less)."
        )
    entries = variant_results(results)
    gaps = _ranked((e.scheme, e.error_gap) for e in entries if e.scheme not in (QQ.key, KMEANS.key))
    listed = ", ".join(f"{label} {100 * gap:.0f} %" for label, gap in gaps)
    paragraphs.append(
        "Each variant closes a share of the gap in squared error (in dB) between QQ and k-means on "
        f"the five distributions: {listed}."
    )
    measured = _ranked((e.scheme, e.accuracy) for e in entries)
    if measured:
        listed = ", ".join(f"{label} {100 * accuracy:.1f} %" for label, accuracy in measured)
        paragraphs.append(f"Mean top-1 of all networks at 2 to 5 bits: {listed}.")
    chosen = chosen_exponents(results)
    if chosen:
        by_error, by_calibration, plain = (
            sum(100 * row[kind]["top1"] for row in chosen) / len(chosen)
            for kind in ("by_error", "by_calibration", "plain")
        )
        paragraphs.append(
            f"One exponent α for a whole network: if the squared error chooses α, the mean top-1 "
            f"is {by_error:.1f} %; if the KL on calibration images chooses it, "
            f"{by_calibration:.1f} %; with α = 1 (QQ), {plain:.1f} %."
        )
    return paragraphs


def _ranked(values: Iterable[tuple[str, float | None]]) -> list[tuple[str, float]]:
    """Return labels and known values, the greatest first."""
    known = [(_LABELS[key], value) for key, value in values if value is not None]
    return sorted(known, key=lambda entry: -entry[1])


def network_table(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows of a table: float accuracy, and the fewest stored bits that keep it."""
    schemes = (UQ, PWLQ, PWLQ_PAPER, QQ, UNIQ, NF, KMEANS)
    head = ("network", "float top-1", *(scheme.label for scheme in schemes))
    rows = []
    for model in ["small", *results.network_names()]:
        top = results.float_accuracy(model)
        cells = []
        for scheme in schemes:
            accuracies = results.accuracies(model, scheme.key)
            fewest = next(
                (
                    bits
                    for bits in sorted(accuracies)
                    if all(accuracies[b] >= top - INTACT for b in accuracies if b >= bits)
                ),
                None,
            )
            cells.append("more" if fewest is None else str(fewest + scheme.extra_bits))
        rows.append((results.label_of(model), f"{100 * top:.1f} %", *cells))
    return head, rows


def limits(results: Results) -> list[str]:
    """Return paragraphs on what must not be compared with the paper."""
    compressed = [row["compressed"] for row in results.networks if "compressed" in row]
    share = 100 * min(compressed) if compressed else 0
    paragraphs = [
        "Accuracies are measured on the files that `qqonnx convert` writes. Biases and other "
        f"tensors that would not shrink stay float: at least {share:.1f} % of the parameters' "
        "bytes are compressed in every network. UQ is affine from the smallest to the largest "
        "weight, which is stronger than a symmetric grid. A network is intact if it loses at most "
        "one point of accuracy.",
    ]
    if "torchvision" not in results.setting["networks"]:
        paragraphs.append(
            "The paper's Figures 3 to 6 use ImageNet and torchvision's weights. These networks "
            "have the same architectures, but they were trained on small images of ten classes. "
            "Neither the absolute accuracies nor the bits at which they collapse compare with the "
            "paper's. The order of the schemes, the shares of error and the rank correlations "
            "compare with care: these networks are wide for their task, so they tolerate more "
            "error than networks trained on ImageNet. Use --imagenette for the paper's own setting."
        )
    if results.setting["small network"].endswith("digits"):
        paragraphs.append(
            "The small network of Figure 2 was trained on scikit-learn's digits, not on MNIST. "
            "Use --mnist for MNIST."
        )
    return paragraphs

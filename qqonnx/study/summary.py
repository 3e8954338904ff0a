"""Sentences and tables of the results, for the report and for docs/study.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qqonnx.study.mending import chosen_exponents, mendings, tails_by_bits
from qqonnx.study.schemes import ALL, KMEANS, NF, PWLQ, PWLQ_PAPER, QQ, UNIQ, UQ

if TYPE_CHECKING:
    from qqonnx.study.results import Results

INTACT = 0.01
"""A network whose accuracy is at most this much below its float accuracy counts as intact."""

_LABELS = {scheme.key: scheme.label for scheme in ALL}


def answer(results: Results) -> list[str]:
    """Return paragraphs that answer the open question with numbers."""
    paragraphs = []
    outer = results.losses("normal", QQ.key, "outer_squared")
    best = results.losses("normal", KMEANS.key, "outer_squared")
    paragraphs.append(
        f"Why QQ fails at the tails: of normal values at 4 bits, its two outermost bins hold "
        f"{100 * 2 / 16:.1f} % of the values and {100 * outer[4]:.0f} % of the squared error "
        f"(k-means: {100 * best[4]:.0f} %); at 8 bits it is still {100 * outer[8]:.0f} %: "
        "more bits refine the bins that err least."
    )
    tails = tails_by_bits(results, QQ.key)
    if 4 in tails:
        row = tails[4]
        paragraphs.append(
            f"In the networks' weights at 4 bits these bins carry {100 * row['squared']:.0f} % of "
            f"the squared error and {100 * row['weighted']:.0f} % of it when weighted with the "
            f"activations. Leaving them float lowers the KL to the float outputs from "
            f"{row['kl_all']:.3g} to {row['kl_inner']:.3g} nats "
            f"({100 * (1 - row['kl_inner'] / row['kl_all']):.0f} % less)."
        )
    entries = {entry.scheme: entry for entry in mendings(results)}
    mended = [e for e in entries.values() if e.scheme not in (QQ.key, KMEANS.key)]
    ranked = sorted(
        (e for e in mended if e.error_gap is not None), key=lambda e: -(e.error_gap or 0)
    )
    listed = ", ".join(f"{_LABELS[e.scheme]} {100 * (e.error_gap or 0):.0f} %" for e in ranked)
    paragraphs.append(
        f"Share of the gap in squared error (in dB) between QQ and k-means that each mending "
        f"closes on the five distributions: {listed}."
    )
    measured = sorted(
        (e for e in entries.values() if e.accuracy is not None), key=lambda e: -(e.accuracy or 0)
    )
    if measured:
        listed = ", ".join(f"{_LABELS[e.scheme]} {100 * (e.accuracy or 0):.1f} %" for e in measured)
        paragraphs.append(f"Mean top-1 of all networks at 2 to 5 bits: {listed}.")
    chosen = chosen_exponents(results)
    if chosen:
        means = {
            kind: sum(100 * row[kind]["top1"] for row in chosen) / len(chosen)
            for kind in ("by_error", "by_calibration", "plain")
        }
        paragraphs.append(
            f"One exponent α for a whole network, chosen by squared error, gives "
            f"{means['by_error']:.1f} % top-1 on average; chosen by the KL on calibration images "
            f"{means['by_calibration']:.1f} %; α = 1 (QQ) {means['plain']:.1f} %."
        )
    return paragraphs


def network_table(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows: float accuracy, and the fewest stored bits that keep it."""
    schemes = (UQ, PWLQ, PWLQ_PAPER, QQ, UNIQ, NF, KMEANS)
    head = ("network", "float top-1", *(scheme.label for scheme in schemes))
    rows = []
    for model in ["small", *results.network_names()]:
        top = results.float_accuracy(model)
        cells = []
        for scheme in schemes:
            found = results.accuracies(model, scheme.key)
            kept = [
                bits + scheme.more_bits
                for bits in sorted(found)
                if all(found[b] >= top - INTACT for b in found if b >= bits)
            ]
            cells.append(str(kept[0]) if kept else "more")
        rows.append((results.label_of(model), f"{100 * top:.1f} %", *cells))
    return head, rows


def limits(results: Results) -> list[str]:
    """Return what readers must know before they compare these numbers with the paper's."""
    compressed = [row["compressed"] for row in results.networks if "compressed" in row]
    share = 100 * min(compressed) if compressed else 0
    imagenet = "torchvision" in results.setting["networks"]
    paragraphs = [
        f"Accuracies are measured on the file that `qqonnx convert` writes. Biases and other "
        f"tensors that would not become smaller stay float: at least {share:.1f} % of the "
        "parameters' bytes are compressed in every network. UQ here is affine from the least to "
        "the greatest weight, stronger than a symmetric grid. Intact means at most one point "
        "below the float accuracy.",
    ]
    if not imagenet:
        paragraphs.append(
            "The paper's Figures 3 to 6 are on ImageNet with torchvision's weights. These networks "
            "have the same architectures but were trained on small images of ten classes: absolute "
            "accuracies, and the bit-width at which they collapse, cannot be compared with the "
            "paper's. The order of the schemes, the shares of error and the rank correlations can "
            "be, with care: these networks are wide for their task, so they bear more error than "
            "networks trained on ImageNet. For the paper's own setting give --imagenette."
        )
    if results.label_of("small") and results.setting["small network"].endswith("digits"):
        paragraphs.append(
            "The small network of Figure 2 was trained on scikit-learn's digits, not on MNIST; "
            "give --mnist for that."
        )
    return paragraphs

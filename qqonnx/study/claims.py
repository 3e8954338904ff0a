"""The paper's claims, each with a number and a verdict, computed from the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.study.correlation import PREDICTORS, correlations
from qqonnx.study.distributions import DISTRIBUTIONS
from qqonnx.study.schemes import ALL, KMEANS, MENDED, PWLQ, PWLQ_PAPER, QQ, UQ

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qqonnx.study.results import Results

HOLDS = "holds"
IN_PART = "holds in part"
FAILS = "does not hold"
UNKNOWN = "not measured"

ENTROPY_TOLERANCE = 1e-3
"""Bits by which an entropy may be lower than another and count as equal."""

GOOD_PREDICTOR = 0.7
"""A rank correlation from which a predictor would be called good."""

BITS_OF_INTEREST = (2, 3, 4, 5)
"""Bit-widths at which accuracies differ: at 1 most networks guess, from 6 on all are intact."""


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it.

    Attributes:
        key: short and unique.
        statement: what the paper says.
        verdict: one of the four above.
        number: the figure that decides, with its unit.
        detail: sentences with the other figures.
    """

    key: str
    statement: str
    verdict: str
    number: str
    detail: str


def claims(results: Results) -> list[Claim]:
    """Return every claim with its verdict."""
    return [
        entropy_is_greatest(results),
        l1_is_lowest(results),
        pwlq_has_the_lowest_l2(results),
        error_is_a_poor_predictor(results),
        pwlq_without_its_extra_bit(results),
        accuracy_is_highest(results),
    ]


def verdict_of(wins: int, cases: int) -> str:
    """Return the verdict for a claim that says "always"."""
    if not cases:
        return UNKNOWN
    return HOLDS if wins == cases else IN_PART if 2 * wins >= cases else FAILS


def entropy_is_greatest(results: Results) -> Claim:
    """Compare QQ's index entropy with that of all others of 2^b levels."""
    others = [s.key for s in ALL if s.key not in (QQ.key, PWLQ_PAPER.key) and s not in _same_bins()]
    wins = cases = 0
    least = 1.0
    for distribution in DISTRIBUTIONS:
        mine = results.losses(distribution.key, QQ.key, "entropy")
        for bits, entropy in mine.items():
            rivals = (results.losses(distribution.key, key, "entropy").get(bits) for key in others)
            best = max((rival for rival in rivals if rival is not None), default=0.0)
            cases += 1
            wins += entropy >= best - ENTROPY_TOLERANCE
            least = min(least, entropy / bits)
    network_wins = network_cases = 0
    for _, _, rows in results.cells():
        if QQ.key in rows and len(rows) > 1:
            best = max((rows[key]["entropy"] for key in others if key in rows), default=0.0)
            network_cases += 1
            network_wins += rows[QQ.key]["entropy"] >= best - ENTROPY_TOLERANCE
    return Claim(
        "entropy",
        "QQ maximises the entropy of the indices.",
        verdict_of(wins + network_wins, cases + network_cases),
        f"{wins + network_wins} of {cases + network_cases} cases",
        f"Highest of all schemes with 2ᵇ levels in {wins} of {cases} cases of distribution and "
        f"bit-width, and in {network_wins} of {network_cases} of network and bit-width; at least "
        f"{100 * least:.2f} % of the possible entropy b on every distribution.",
    )


def _same_bins() -> tuple[object, ...]:
    """Return the schemes that share QQ's bins, and so its entropy."""
    return tuple(s for s in MENDED if s.method in ("qq", "qq-median", "qq-midpoint"))


def l1_is_lowest(results: Results) -> Claim:
    """Compare QQ's mean absolute error with UQ's and PWLQ's at equal named bits."""
    counts = {rival.key: [0, 0, 0, 0] for rival in (UQ, PWLQ, PWLQ_PAPER)}
    for distribution in DISTRIBUTIONS:
        mine = results.losses(distribution.key, QQ.key, "l1")
        for key, count in counts.items():
            for bits, other in results.losses(distribution.key, key, "l1").items():
                at = 0 if distribution.key == "normal" else 2
                count[at] += mine[bits] < other
                count[at + 1] += 1
    normal = sum(count[0] for count in counts.values()), sum(count[1] for count in counts.values())
    fair = (
        [counts[key][0] + counts[key][2] for key in (UQ.key, PWLQ.key)],
        [counts[key][1] + counts[key][3] for key in (UQ.key, PWLQ.key)],
    )
    parts = "; ".join(
        f"{scheme.label}: {counts[scheme.key][0]} of {counts[scheme.key][1]} on normal values, "
        f"{counts[scheme.key][2]} of {counts[scheme.key][3]} on the others"
        for scheme in (UQ, PWLQ, PWLQ_PAPER)
    )
    wins, cases = sum(fair[0]), sum(fair[1])
    return Claim(
        "l1",
        "QQ has the lowest L1 error at all bit-widths.",
        verdict_of(wins + counts[PWLQ_PAPER.key][0], cases + counts[PWLQ_PAPER.key][1]),
        f"lower in {normal[0]} of {normal[1]} comparisons on normal values",
        f"Bit-widths at which QQ's L1 is lower than that of {parts} (PWLQ as published has twice "
        "the levels at the same b).",
    )


def pwlq_has_the_lowest_l2(results: Results) -> Claim:
    """Compare PWLQ's squared error with UQ's and QQ's, above 4 bits and below."""

    def wins(scheme: str, shift: int, above: bool, rival: str) -> tuple[int, int]:
        won = cases = 0
        own = results.losses("normal", scheme, "l2")
        other = results.losses("normal", rival, "l2")
        for bits, loss in own.items():
            stored = bits + shift
            if (stored > 4) == above and stored in other:
                won += loss < other[stored]
                cases += 1
        return won, cases

    def both(scheme: str, shift: int, above: bool) -> tuple[int, int]:
        pairs = [wins(scheme, shift, above, rival.key) for rival in (UQ, QQ)]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    named, stored = both(PWLQ_PAPER.key, 0, True), both(PWLQ_PAPER.key, 1, True)
    equal, low = both(PWLQ.key, 0, True), both(PWLQ.key, 0, False)
    kmeans, pwlq = (results.losses("normal", s.key, "l2").get(6) for s in (KMEANS, PWLQ))
    ratio = f"{pwlq / kmeans:.2f}" if kmeans and pwlq else "–"
    return Claim(
        "l2",
        "PWLQ has a lower L2 error than QQ and UQ for b > 4.",
        verdict_of(stored[0] + equal[0], stored[1] + equal[1]),
        f"lower in {stored[0]} of {stored[1]} comparisons with the extra bit counted",
        f"Normal values, b > 4: as published, counted as b bits, lower in {named[0]} of {named[1]} "
        f"comparisons with UQ and QQ; counted as the b + 1 bits that are stored, in {stored[0]} of "
        f"{stored[1]}; with 2ᵇ levels, in {equal[0]} of {equal[1]} (and for b ≤ 4 in {low[0]} of "
        f"{low[1]}). At 6 bits its L2 with 2ᵇ levels is {ratio} times that of k-means.",
    )


def error_is_a_poor_predictor(results: Results) -> Claim:
    """Rank correlations of error measures with accuracy, one weight quantized at a time."""
    statement = "Quantization error is a poor predictor of accuracy."
    if not results.layers:
        return Claim("predictor", statement, UNKNOWN, "–", "No single weights were quantized.")
    found = {entry.predictor: entry for entry in correlations(results.layers)}
    errors = [abs(found[key].pooled) for key in ("l1", "l2")]
    choice = [found[key].within_choice for key in ("l1", "l2")]
    if max(errors) < GOOD_PREDICTOR:
        verdict = HOLDS
    else:
        verdict = FAILS if min(errors) >= GOOD_PREDICTOR else IN_PART
    listed = "; ".join(
        f"{name} {found[key].pooled:.2f} / {found[key].within_weight:.2f} / "
        f"{found[key].within_choice:.2f}"
        for key, name in PREDICTORS.items()
    )
    return Claim(
        "predictor",
        statement,
        verdict,
        f"Spearman's ρ with accuracy: L1 {found['l1'].pooled:.2f}, L2 {found['l2'].pooled:.2f}, "
        f"output KL {found['kl'].pooled:.2f}",
        f"{len(results.layers):,} single quantized weights; ρ over all weights, methods and "
        f"bit-widths / over methods and bit-widths of one weight / over methods at one weight and "
        f"bit-width ({found['l2'].choices} cases): {listed}. Which of two methods is better at one "
        f"weight and bit-width, L1 and L2 tell with ρ = {choice[0]:.2f} and {choice[1]:.2f}.",
    )


def pwlq_without_its_extra_bit(results: Results) -> Claim:
    """PWLQ's accuracy less UQ's and QQ's, at equal named and at equal stored bits."""
    named = {rival.key: _advantage(results, rival.key, 0) for rival in (UQ, QQ)}
    stored = {rival.key: _advantage(results, rival.key, 1) for rival in (UQ, QQ)}
    lost = all(np.isnan(value) for value in stored.values())
    best = min(stored.values())
    verdict = UNKNOWN if lost else HOLDS if best > 0 else FAILS
    if not lost and best <= 0 < max(stored.values()):
        verdict = IN_PART
    return Claim(
        "extra-bit",
        "PWLQ is ahead of UQ and QQ at equal bits (its extra bit counted).",
        verdict,
        f"{stored[QQ.key]:+.1f} points against QQ, {stored[UQ.key]:+.1f} against UQ",
        f"Mean top-1 difference of PWLQ as published over all networks, at {_bits_text()} bits: "
        f"named by b, {named[QQ.key]:+.1f} points against QQ and {named[UQ.key]:+.1f} against UQ; "
        f"by the b + 1 bits it stores, {stored[QQ.key]:+.1f} and {stored[UQ.key]:+.1f}.",
    )


def accuracy_is_highest(results: Results) -> Claim:
    """Count where QQ has the best accuracy of UQ, PWLQ (2^b levels) and QQ; ties count."""
    wins = cases = 0
    by_bits: dict[int, list[int]] = {}
    for _, bits, rows in results.cells():
        if {UQ.key, PWLQ.key, QQ.key} <= set(rows) and bits in BITS_OF_INTEREST:
            won = rows[QQ.key]["top1"] >= max(rows[UQ.key]["top1"], rows[PWLQ.key]["top1"])
            wins += won
            cases += 1
            by_bits.setdefault(bits, []).append(int(won))
    parts = ", ".join(f"{sum(w)} of {len(w)} at {b}" for b, w in sorted(by_bits.items()))
    best = mean_accuracies(results, [UQ.key, PWLQ.key, QQ.key, KMEANS.key])
    means = ", ".join(
        f"{scheme.label} {100 * best[scheme.key]:.1f} %"
        for scheme in (UQ, PWLQ, QQ, KMEANS)
        if scheme.key in best
    )
    return Claim(
        "accuracy",
        "QQ keeps more accuracy than UQ and PWLQ at few bits.",
        verdict_of(wins, cases),
        f"best or equal in {wins} of {cases} cases",
        f"QQ best or equal at equal stored bits: {parts} bits. Mean top-1 over networks and "
        f"{_bits_text()} bits: {means}.",
    )


def mean_accuracies(results: Results, keys: Iterable[str]) -> dict[str, float]:
    """Return each scheme's mean top-1 over networks at `BITS_OF_INTEREST`, where all were run."""
    wanted = list(keys)
    complete = [
        rows
        for _, bits, rows in results.cells()
        if bits in BITS_OF_INTEREST and set(wanted) <= set(rows)
    ]
    if not complete:
        return {}
    return {key: float(np.mean([rows[key]["top1"] for rows in complete])) for key in wanted}


def _advantage(results: Results, rival: str, shift: int) -> float:
    """Return the mean difference in points of published PWLQ to `rival` at b + shift bits."""
    by_case = {(model, bits): rows for model, bits, rows in results.cells()}
    differences = [
        rows[PWLQ_PAPER.key]["top1"] - by_case[model, bits + shift][rival]["top1"]
        for (model, bits), rows in by_case.items()
        if PWLQ_PAPER.key in rows
        and bits + shift in BITS_OF_INTEREST
        and rival in by_case.get((model, bits + shift), {})
    ]
    return 100 * float(np.mean(differences)) if differences else float("nan")


def _bits_text() -> str:
    return f"{min(BITS_OF_INTEREST)} to {max(BITS_OF_INTEREST)}"

"""The paper's claims, each with a number and a verdict from the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.study.correlation import PREDICTORS, correlations
from qqonnx.study.distributions import DISTRIBUTIONS
from qqonnx.study.schemes import ALL, KMEANS, PWLQ, PWLQ_PAPER, QQ, UQ, VARIANTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from qqonnx.study.results import Results, Row
    from qqonnx.study.schemes import Scheme

    Wins = NDArray[np.int64]
    """Wins and cases, [2]."""

HOLDS = "holds"
IN_PART = "holds in part"
FAILS = "does not hold"
UNKNOWN = "not measured"

ENTROPY_TOLERANCE = 1e-3
"""Entropies that differ by less, in bits, count as equal."""

GOOD_PREDICTOR = 0.7
"""The rank correlation from which a predictor counts as good."""

BITS_OF_INTEREST = (2, 3, 4, 5)
"""Bits at which accuracies differ: at 1 most networks guess, from 6 all of them are intact."""

_BITS_TEXT = f"{min(BITS_OF_INTEREST)} to {max(BITS_OF_INTEREST)}"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and its verdict.

    Attributes:
        key: a short unique name.
        statement: the claim.
        verdict: one of the four constants of this module.
        number: the deciding number with its unit.
        detail: sentences with the other numbers.
    """

    key: str
    statement: str
    verdict: str
    number: str
    detail: str


def claims(results: Results) -> list[Claim]:
    """Return all claims with their verdicts."""
    return [
        entropy_is_greatest(results),
        l1_is_lowest(results),
        pwlq_has_the_lowest_l2(results),
        error_is_a_poor_predictor(results),
        pwlq_without_its_extra_bit(results),
        accuracy_is_highest(results),
    ]


def verdict_of(wins: int, cases: int) -> str:
    """Return the verdict on a claim that says "always"."""
    if not cases:
        return UNKNOWN
    return HOLDS if wins == cases else IN_PART if 2 * wins >= cases else FAILS


def entropy_is_greatest(results: Results) -> Claim:
    """Compare QQ's index entropy with that of all other schemes with 2^b levels."""
    # These share QQ's bins, so they share its entropy.
    same_bins = [s.key for s in VARIANTS if s.method in ("qq", "qq-median", "qq-midpoint")]
    excluded = (QQ.key, PWLQ_PAPER.key, *same_bins)
    rivals = [scheme.key for scheme in ALL if scheme.key not in excluded]
    by_distribution = results.distribution_cells()
    wins, cases = _highest_entropies(by_distribution.values(), rivals)
    network_wins, network_cases = _highest_entropies(results.network_cells().values(), rivals)
    least = min(
        (rows[QQ.key]["entropy"] / bits for (_, bits), rows in by_distribution.items()), default=1.0
    )
    return Claim(
        "entropy",
        "QQ maximizes the entropy of the indices.",
        verdict_of(wins + network_wins, cases + network_cases),
        f"{wins + network_wins} of {cases + network_cases} cases",
        f"QQ has the highest entropy of all schemes with 2ᵇ levels in {wins} of {cases} cases of "
        f"distribution and bit-width, and in {network_wins} of {network_cases} cases of network "
        f"and bit-width. On every distribution it reaches at least {100 * least:.2f} % of the "
        "maximum entropy b.",
    )


def _highest_entropies(
    cells: Iterable[Mapping[str, Row]], rivals: Iterable[str]
) -> tuple[int, int]:
    wins = cases = 0
    for rows in cells:
        others = [rows[key]["entropy"] for key in rivals if key in rows]
        if QQ.key in rows and others:
            wins += rows[QQ.key]["entropy"] >= max(others) - ENTROPY_TOLERANCE
            cases += 1
    return wins, cases


def l1_is_lowest(results: Results) -> Claim:
    """Compare QQ's mean absolute error with UQ's and PWLQ's at equal named bits."""
    rivals = (UQ, PWLQ, PWLQ_PAPER)
    normal: dict[Scheme, Wins] = {}
    others: dict[Scheme, Wins] = {}
    for rival in rivals:
        counts = {
            distribution.key: _lower(
                results.losses(distribution.key, QQ.key, "l1"),
                results.losses(distribution.key, rival.key, "l1"),
            )
            for distribution in DISTRIBUTIONS
        }
        normal[rival] = counts.pop("normal")
        others[rival] = sum(counts.values(), _NONE)
    on_normal = sum(normal.values(), _NONE)
    # Published PWLQ has twice the levels, so it counts only where the paper compares it.
    wins, cases = on_normal + others[UQ] + others[PWLQ]
    parts = "; ".join(
        f"{rival.label}: {_ratio(normal[rival])} on normal values, {_ratio(others[rival])} on the "
        "other distributions"
        for rival in rivals
    )
    return Claim(
        "l1",
        "QQ has the lowest L1 error at all bit-widths.",
        verdict_of(wins, cases),
        f"lower in {_ratio(on_normal)} comparisons on normal values",
        f"Bit-widths at which QQ has a lower L1 error than a rival: {parts}. PWLQ as published has "
        "twice the levels at the same b.",
    )


def pwlq_has_the_lowest_l2(results: Results) -> Claim:
    """Compare PWLQ's squared error with UQ's and QQ's, above 4 bits and below."""

    def wins(scheme: str, extra_bits: int, bits: Collection[int]) -> Wins:
        own = results.losses("normal", scheme, "l2")
        stored = {named + extra_bits: loss for named, loss in own.items()}
        compared = {b: loss for b, loss in stored.items() if b in bits}
        rivals = (results.losses("normal", rival.key, "l2") for rival in (UQ, QQ))
        return sum((_lower(compared, losses) for losses in rivals), _NONE)

    high, low = range(5, 99), range(5)
    named, stored = wins(PWLQ_PAPER.key, 0, high), wins(PWLQ_PAPER.key, 1, high)
    equal, equal_low = wins(PWLQ.key, 0, high), wins(PWLQ.key, 0, low)
    kmeans, pwlq = (results.losses("normal", s.key, "l2").get(6) for s in (KMEANS, PWLQ))
    ratio = f"{pwlq / kmeans:.2f}" if kmeans and pwlq else "–"
    return Claim(
        "l2",
        "PWLQ has a lower L2 error than QQ and UQ for b > 4.",
        verdict_of(*(stored + equal)),
        f"lower in {_ratio(stored)} comparisons with the extra bit counted",
        f"Comparisons with UQ and QQ on normal values, b > 4: PWLQ as published has the lower "
        f"error in {_ratio(named)} if counted as b bits, and in {_ratio(stored)} if counted as "
        f"the b + 1 bits that it stores. PWLQ with 2ᵇ levels has it in {_ratio(equal)}, and in "
        f"{_ratio(equal_low)} for b ≤ 4; at 6 bits its error is {ratio} times that of k-means.",
    )


_NONE = np.zeros(2, np.int64)


def _lower(losses: Mapping[int, float], others: Mapping[int, float]) -> Wins:
    """Count the bits at which a loss is lower than the other, and the bits that both have."""
    compared = [losses[bits] < others[bits] for bits in losses if bits in others]
    return np.array([sum(compared), len(compared)], np.int64)


def _ratio(wins: Wins) -> str:
    return f"{wins[0]} of {wins[1]}"


def error_is_a_poor_predictor(results: Results) -> Claim:
    """Rank correlations of error measures with accuracy, one weight quantized at a time."""
    statement = "Quantization error is a poor predictor of accuracy."
    if not results.layers:
        return Claim("predictor", statement, UNKNOWN, "–", "No single weights were quantized.")
    entries = {entry.predictor: entry for entry in correlations(results.layers)}
    l1, l2 = entries["l1"], entries["l2"]
    errors = [abs(l1.pooled), abs(l2.pooled)]
    if max(errors) < GOOD_PREDICTOR:
        verdict = HOLDS
    else:
        verdict = FAILS if min(errors) >= GOOD_PREDICTOR else IN_PART
    listed = "; ".join(
        f"{name} {entry.pooled:.2f} / {entry.within_weight:.2f} / {entry.within_choice:.2f}"
        for name, entry in ((name, entries[key]) for key, name in PREDICTORS.items())
    )
    return Claim(
        "predictor",
        statement,
        verdict,
        f"Spearman's ρ with accuracy: L1 {l1.pooled:.2f}, L2 {l2.pooled:.2f}, output KL "
        f"{entries['kl'].pooled:.2f}",
        f"{len(results.layers):,} single quantized weights. ρ over all weights, methods and "
        f"bit-widths / over methods and bit-widths of one weight / over methods at one weight and "
        f"bit-width ({l2.choices} cases): {listed}. For the better of two methods at one weight "
        f"and bit-width, ρ is {l1.within_choice:.2f} with L1 and {l2.within_choice:.2f} with L2.",
    )


def pwlq_without_its_extra_bit(results: Results) -> Claim:
    """Compare PWLQ's accuracy with UQ's and QQ's, at equal named and at equal stored bits."""
    named = {rival.key: _advantage(results, rival.key, 0) for rival in (UQ, QQ)}
    stored = {rival.key: _advantage(results, rival.key, 1) for rival in (UQ, QQ)}
    if all(np.isnan(value) for value in stored.values()):
        verdict = UNKNOWN
    elif min(stored.values()) > 0:
        verdict = HOLDS
    else:
        verdict = IN_PART if max(stored.values()) > 0 else FAILS
    return Claim(
        "extra-bit",
        "PWLQ is ahead of UQ and QQ at equal bits (its extra bit counted).",
        verdict,
        f"{stored[QQ.key]:+.1f} points against QQ, {stored[UQ.key]:+.1f} against UQ",
        f"Mean top-1 difference of PWLQ as published over all networks at {_BITS_TEXT} bits: "
        f"{named[QQ.key]:+.1f} points against QQ and {named[UQ.key]:+.1f} against UQ at b bits as "
        f"named; {stored[QQ.key]:+.1f} and {stored[UQ.key]:+.1f} at the b + 1 bits that it stores.",
    )


def accuracy_is_highest(results: Results) -> Claim:
    """Count the cases in which QQ is best or equal among UQ, PWLQ with 2^b levels, and QQ."""
    by_bits: dict[int, list[bool]] = {}
    for (_, bits), rows in results.network_cells().items():
        if {UQ.key, PWLQ.key, QQ.key} <= set(rows) and bits in BITS_OF_INTEREST:
            best = max(rows[UQ.key]["top1"], rows[PWLQ.key]["top1"])
            by_bits.setdefault(bits, []).append(rows[QQ.key]["top1"] >= best)
    wins, cases = sum(map(sum, by_bits.values())), sum(map(len, by_bits.values()))
    parts = ", ".join(f"{sum(won)} of {len(won)} at {b} bits" for b, won in sorted(by_bits.items()))
    compared = (UQ, PWLQ, QQ, KMEANS)
    means = mean_accuracies(results, [scheme.key for scheme in compared])
    listed = ", ".join(
        f"{scheme.label} {100 * means[scheme.key]:.1f} %"
        for scheme in compared
        if scheme.key in means
    )
    return Claim(
        "accuracy",
        "QQ keeps more accuracy than UQ and PWLQ at few bits.",
        verdict_of(wins, cases),
        f"best or equal in {wins} of {cases} cases",
        f"Cases in which QQ is best or equal at equal stored bits: {parts}. Mean top-1 over all "
        f"networks at {_BITS_TEXT} bits: {listed}.",
    )


def mean_accuracies(results: Results, keys: Collection[str]) -> dict[str, float]:
    """Return each scheme's mean top-1 over the networks and `BITS_OF_INTEREST` that have all."""
    complete = [
        rows
        for (_, bits), rows in results.network_cells().items()
        if bits in BITS_OF_INTEREST and set(keys) <= set(rows)
    ]
    if not complete:
        return {}
    return {key: float(np.mean([rows[key]["top1"] for rows in complete])) for key in keys}


def _advantage(results: Results, rival: str, extra_bits: int) -> float:
    """Return published PWLQ's mean lead over `rival` at b + extra_bits bits, in points."""
    cells = results.network_cells()
    differences = [
        rows[PWLQ_PAPER.key]["top1"] - cells[model, bits + extra_bits][rival]["top1"]
        for (model, bits), rows in cells.items()
        if PWLQ_PAPER.key in rows
        and bits + extra_bits in BITS_OF_INTEREST
        and rival in cells.get((model, bits + extra_bits), {})
    ]
    return 100 * float(np.mean(differences)) if differences else float("nan")

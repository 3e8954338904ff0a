"""Recommendations in words: which file of a comparison to take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qqonnx.report.formatting import label, megabytes, percent
from qqonnx.report.scores import AGREEMENT, TOP1
from qqonnx.sweep.baselines import FLOAT32

if TYPE_CHECKING:
    from qqonnx.report.comparisons import Comparison
    from qqonnx.report.outcomes import Outcome

ADVISED_LOSS = 0.01
"""The accepted loss of the recommended file: one point, or 1 % of the float model's value."""


def advice(comparison: Comparison) -> str:
    """Return one to three sentences that recommend a file."""
    others = [outcome for outcome in comparison.outcomes if outcome.method != FLOAT32]
    if not others:
        return "only the float model was run."
    reference = comparison.reference
    best = max(others, key=lambda o: (comparison.worth(o), -o.nbytes, -o.number))
    if reference is None:
        return (
            f"losses are unknown without a run of float32. The best of {len(others)} runs is "
            f"{_described(comparison, best)}."
        )
    pick = comparison.smallest(ADVISED_LOSS)
    within = comparison.kind.loss_text(ADVISED_LOSS)
    if pick is None:
        lost = 100 * comparison.kind.lost(reference, comparison.score(best))
        unit = "points" if comparison.kind.is_share else "%"
        return (
            f"no run stays within {within} of float ({_float(comparison, reference)}). The closest "
            f"is {_described(comparison, best)}, which loses {lost:.1f} {unit}."
        )
    sentences = (
        f"the smallest file within {within} of float ({_float(comparison, reference)}) is "
        f"{_described(comparison, pick)}."
    )
    if pick.is_baseline:
        sentences += " It is a baseline: no file from qqonnx is as good and as small."
    elif any(outcome.is_baseline for outcome in others):
        rival = comparison.smallest(ADVISED_LOSS, baseline=True)
        sentences += (
            " No baseline is as good."
            if rival is None
            else f" The smallest baseline as good, {label(rival)}, takes {megabytes(rival.nbytes)}."
        )
    return sentences


def sampling_error(comparison: Comparison) -> str:
    """Return a sentence with the standard error of the float accuracy, or "" if it is unknown."""
    share = comparison.reference if comparison.kind == TOP1 else None
    if not comparison.samples or share is None:
        return ""
    # Agresti and Coull add two successes and two failures, so that 100 % has an error too.
    images = comparison.samples + 4
    adjusted = (share * comparison.samples + 2) / images
    points = 100 * math.sqrt(adjusted * (1 - adjusted) / images)
    return (
        f"Scored on {comparison.samples:,} images: the standard error of {percent(share)} is about "
        f"{points:.1f} points, so differences of that size may be chance."
    )


def times_smaller(comparison: Comparison, outcome: Outcome) -> float | None:
    """Return the float model's file size over that of a run; None without a float run."""
    return None if comparison.float32 is None else comparison.float32.nbytes / outcome.nbytes


def _float(comparison: Comparison, reference: float) -> str:
    kind = comparison.kind
    score = f"{kind.text(reference)} {kind.title}"
    if not kind.is_share:
        score = f"{kind.title} {kind.text(reference)}"
    if comparison.float32 is None:
        return score
    size = megabytes(comparison.float32.nbytes)
    if kind == AGREEMENT:
        return f"{size}, scored by agreement with its answers"
    return f"{score}, {size}"


def _described(comparison: Comparison, outcome: Outcome) -> str:
    words = f"{label(outcome)}: {megabytes(outcome.nbytes)}"
    times = times_smaller(comparison, outcome)
    if times is not None and times > 1:
        words += f", {times:.1f} times smaller"
    return f"{words}, {comparison.text(outcome)}"

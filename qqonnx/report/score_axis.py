"""The score axis and the tooltips that the charts share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qqonnx.report.formatting import METRICS, label, megabytes, percent
from qqonnx.report.svg import Box, Scale

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qqonnx.report.comparisons import Comparison
    from qqonnx.report.outcomes import Outcome

WIDTH, HEIGHT = 480, 390
"""The size of the charts in SVG user units."""

LINEAR_POINTS = 1.0
"""The axis is about linear for this many points below the best score, logarithmic beyond."""

_TICKS = [
    100, 90, 50, 0, 80, 95, 98, 99, 70, 60, 30, 20, 40, 10, 97, 96, 99.5, 99.8, 99.9, *range(99)
]  # fmt: skip
"""Candidate ticks in percent, by descending priority."""


def score_scale(comparison: Comparison, outcomes: Iterable[Outcome], area: Box) -> Scale:
    """Return the vertical scale of scores in percent, stretched near the best score.

    Files worth choosing lose little. On a linear scale they would share a few pixels.
    """
    scores = [100 * comparison.score(outcome) for outcome in outcomes]
    if comparison.reference is not None:
        scores.append(100 * comparison.reference)
    best = max(scores)

    def warp(value: float) -> float:
        return -math.log(LINEAR_POINTS + best - value)

    lost = 1.15 * (LINEAR_POINTS + best - min(scores))
    low, high = LINEAR_POINTS + best - lost, best + 0.15 * LINEAR_POINTS
    return Scale(low, high, area.bottom, area.top, warp)


def score_axis(comparison: Comparison, y: Scale) -> tuple[Scale, list[float], str]:
    """Return scale, ticks and title of the score axis, for `svg.axes`."""
    title = f"{METRICS[comparison.metric]}, % (stretched near float)"
    return y, y.ticks_among(_TICKS, 22), title


def tooltip(comparison: Comparison, outcome: Outcome) -> str:
    """Return the tooltip of a mark: the run, its score and its size."""
    score = percent(comparison.score(outcome))
    return f"{label(outcome)}: {score}, {megabytes(outcome.nbytes)}"

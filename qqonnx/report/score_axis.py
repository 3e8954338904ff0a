"""The score axis and the tooltips that the charts share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qqonnx.report.formatting import label, megabytes
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
    """Return the vertical scale of scores, stretched near the best score; the best is at the top.

    Files worth choosing lose little. On a linear scale they would share a few pixels.
    """
    kind, reference = comparison.kind, comparison.reference
    scores = [kind.unit * comparison.score(outcome) for outcome in outcomes]
    if reference is not None:
        scores.append(kind.unit * reference)
    least, most = min(scores), max(scores)
    # For a share a point, for other scores a hundredth of the float model's value.
    step = LINEAR_POINTS
    if not kind.is_share:
        step = abs(reference or 0) / 100 or (most - least) / 50 or 1.0
    lost = 1.15 * (step + most - least) - step
    if kind.higher_is_better:
        return Scale(
            most - lost,
            most + 0.15 * step,
            area.bottom,
            area.top,
            lambda value: -math.log(step + most - value),
        )
    return Scale(
        least - 0.15 * step,
        least + lost,
        area.top,
        area.bottom,
        lambda value: math.log(step + value - least),
    )


def score_axis(comparison: Comparison, y: Scale) -> tuple[Scale, list[float], str]:
    """Return scale, ticks and title of the score axis, for `svg.axes`."""
    kind = comparison.kind
    title = f"{kind.title}{', %' if kind.is_share else ''} (stretched near float)"
    if not kind.higher_is_better:
        title = f"{kind.title}, lower is better (stretched near float)"
    candidates = (
        _TICKS if kind.is_share else [t for count in (4, 20, 100, 500) for t in y.ticks(count)]
    )
    return y, y.ticks_among(candidates, 22), title


def tooltip(comparison: Comparison, outcome: Outcome) -> str:
    """Return the tooltip of a mark: the run, its score and its size."""
    return f"{label(outcome)}: {comparison.text(outcome)}, {megabytes(outcome.nbytes)}"

"""The axis of quality that charts share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qqonnx.report.svg import Box, Scale
from qqonnx.report.wording import QUALITIES, label, megabytes, percent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qqonnx.report.outcomes import Outcome
    from qqonnx.report.subjects import Subject

WIDTH, HEIGHT = 480, 390
"""Of the charts, in their own units."""

STRETCH = 1.0
"""Points below the best from which on the axis of quality grows by ratios of what is lost."""

_ROUND_SHARES = [
    100, 90, 50, 0, 80, 95, 98, 99, 70, 60, 30, 20, 40, 10, 97, 96, 99.5, 99.8, 99.9, *range(99)
]  # fmt: skip
"""Ticks, those to keep where there is little room first."""


def quality_scale(subject: Subject, outcomes: Iterable[Outcome], area: Box) -> Scale:
    """Return the scale of quality in percent.

    What matters is lost near the float model: from `STRETCH` points below the best on, equal
    ratios of what is lost are equally far apart.
    """
    qualities = [100 * subject.of(outcome) for outcome in outcomes]
    if subject.reference is not None:
        qualities.append(100 * subject.reference)
    best = max(qualities)

    def warp(value: float) -> float:
        return -math.log(STRETCH + best - value)

    lost = 1.15 * (STRETCH + best - min(qualities))
    return Scale(STRETCH + best - lost, best + 0.15 * STRETCH, area.bottom, area.top, warp)


def quality_axis(subject: Subject, y: Scale) -> tuple[Scale, list[float], str]:
    """Return the axis as `svg.axes` takes it."""
    return (
        y,
        y.ticks_among(_ROUND_SHARES, 22),
        f"{QUALITIES[subject.quality]}, % (stretched near float)",
    )


def tip(subject: Subject, outcome: Outcome) -> str:
    """Tell what a mark stands for."""
    return (
        f"{label(outcome)}: {percent(subject.of(outcome))}, "
        f"{megabytes(outcome.numbers['file_bytes'])}"
    )

"""The chart of score against run time: what integer execution gains and costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qqonnx.report import svg
from qqonnx.report.advice import ADVISED_LOSS
from qqonnx.report.formatting import short_label
from qqonnx.report.score_axis import HEIGHT, WIDTH, score_axis, score_scale, tooltip
from qqonnx.report.svg import Box, Label, Scale
from qqonnx.sweep.baselines import FLOAT32

if TYPE_CHECKING:
    from markupsafe import Markup

    from qqonnx.report.comparisons import Comparison
    from qqonnx.report.outcomes import Outcome

_TICKS = [1.0, 0.5, 0.2, 2.0, 0.1, 5.0, 0.3, 0.7, 0.4, 1.5, 3.0, 0.6, 0.8, 0.9, 1.2]
"""Candidate ticks, by descending priority."""


def speed_chart(name: str, comparison: Comparison) -> Markup:
    """Draw score against run time.

    Args:
        name: the chart's id, unique in the page.
        comparison: the runs; two of them at least have a run time.
    """
    area = Box(42, 40, WIDTH - 14, HEIGHT - 42)
    timed = comparison.timed
    times = [_time(outcome) for outcome in timed]
    x = Scale(min(times) / 1.12, max(times) * 1.12, area.left, area.right, math.log)
    y = score_scale(comparison, timed, area)
    axis = x, x.ticks_among(_TICKS, 30), f"run time / that of {FLOAT32} (log scale)"
    parts = [svg.axes(area, axis, score_axis(comparison, y))]
    pick = comparison.fastest(ADVISED_LOSS)
    labels = []
    for outcome in sorted(timed, key=lambda o: (o is pick, not o.is_baseline)):
        at = x(_time(outcome)), y(comparison.kind.unit * comparison.score(outcome))
        shape = "square" if outcome.is_baseline else "circle"
        class_ = "best" if outcome is pick else "baseline" if outcome.is_baseline else "run"
        words = f"{tooltip(comparison, outcome)}, {_time(outcome):.2f} × the time"
        parts.append(svg.mark(shape, *at, 4.6 if outcome is pick else 3.4, class_, words))
        if outcome is pick or outcome.is_baseline or outcome.compute != "float":
            kind = "label pick" if outcome is pick else "label"
            corners = ("above right", "below right", "at right", "above left", "below left")
            labels.append(Label(*at, short_label(outcome), kind, corners))
    parts.append(svg.placed_labels(labels[::-1], Box(area.left, 18, WIDTH, area.bottom), []))
    title = f"{comparison.name}: {comparison.kind.title} against run time"
    return svg.drawing(name, title, speed_description(comparison), WIDTH, HEIGHT, *parts)


def speed_description(comparison: Comparison) -> str:
    """Describe the speed chart in words."""
    fastest = min(comparison.timed, key=lambda o: (_time(o), o.number))
    words = (
        f"{len(comparison.timed)} runs by {comparison.kind.title} and run time. The fastest, "
        f"{short_label(fastest)}, takes {_time(fastest):.2f} × the time of {FLOAT32} "
        f"({comparison.text(fastest)})."
    )
    pick = comparison.fastest(ADVISED_LOSS)
    if pick is not None:
        within = comparison.kind.loss_text(ADVISED_LOSS)
        words += f" The fastest within {within} is {short_label(pick)}, with {_time(pick):.2f} ×."
    return words


def _time(outcome: Outcome) -> float:
    assert outcome.run_time is not None
    return outcome.run_time

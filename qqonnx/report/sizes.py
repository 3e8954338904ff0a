"""The chart of score against file size, with the Pareto frontier and the baselines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qqonnx.report import svg
from qqonnx.report.advice import ADVISED_LOSS
from qqonnx.report.formatting import megabytes, short_label
from qqonnx.report.score_axis import HEIGHT, WIDTH, score_axis, score_scale, tooltip
from qqonnx.report.svg import Box, Label, Scale, element
from qqonnx.sweep.baselines import FLOAT32
from qqonnx.sweep.grid import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from markupsafe import Markup

    from qqonnx.report.comparisons import Comparison
    from qqonnx.report.outcomes import Outcome

    Position = Callable[[Outcome], tuple[float, float]]

_TICKS = [
    float(f"{digit}e{power}") for digit in (1, 2, 5, 3, 7, 4, 6, 8, 9) for power in range(-4, 5)
]
"""Candidate ticks in MB, by descending priority."""

_BASELINE_CORNERS = (
    "below right", "at right", "below left", "above right", "at left", "above left",
)  # fmt: skip


def size_chart(name: str, comparison: Comparison, detailed: frozenset[int]) -> Markup:
    """Draw score against file size.

    Args:
        name: the chart's id, unique in the page.
        comparison: the runs.
        detailed: the numbers of runs with details in the page; their marks link there.
    """
    area = Box(42, 40, WIDTH - 14, HEIGHT - 42)
    frontier = comparison.frontier
    sizes = [outcome.nbytes / 1e6 for outcome in comparison.outcomes]
    x = Scale(min(sizes) / 1.12, max(sizes) * 1.12, area.left, area.right, math.log)
    y = score_scale(comparison, comparison.outcomes, area)

    def position(outcome: Outcome) -> tuple[float, float]:
        return x(outcome.nbytes / 1e6), y(comparison.kind.unit * comparison.score(outcome))

    def mark(outcome: Outcome, size: float, class_: str) -> Markup:
        shape = "square" if outcome.is_baseline else "up" if outcome.method == TARGET else "circle"
        return svg.mark(shape, *position(outcome), size, class_, tooltip(comparison, outcome))

    size_axis = x, x.ticks_among(_TICKS, 30), "file size, MB (log scale)"
    parts = [svg.axes(area, size_axis, score_axis(comparison, y))]
    if comparison.reference is not None:
        kind = comparison.kind
        below = f"{kind.loss_text(ADVISED_LOSS)} worse than {FLOAT32}"
        if kind.is_share:
            below = f"{kind.loss_text(ADVISED_LOSS)} below {FLOAT32}"
        for loss, words in ((0.0, ""), (ADVISED_LOSS, below)):
            value = kind.unit * kind.after(comparison.reference, loss)
            if y.low < value < y.high:
                height = y(value)
                parts.append(svg.path([(area.left, height), (area.right, height)], "reference"))
                parts.append(svg.text(area.right, height + svg.FONT, words, "quiet", "end"))
    others = [outcome for outcome in comparison.outcomes if outcome not in frontier]
    parts += [
        mark(outcome, 3.4, "baseline" if outcome.is_baseline else "run")
        for outcome in sorted(others, key=lambda o: o.is_baseline)
    ]
    stairs: list[tuple[float, float]] = []
    for across, down in map(position, frontier):
        stairs += [(across, stairs[-1][1] if stairs else area.bottom), (across, down)]
    parts.append(svg.path([*stairs, (area.right, stairs[-1][1])], "frontier"))
    for outcome in frontier:
        drawn = mark(outcome, 4.6, "best baseline" if outcome.is_baseline else "best")
        if outcome.number in detailed:
            words = tooltip(comparison, outcome)
            drawn = element("a", drawn, href=f"#run-{outcome.number}", aria_label=words)
        parts.append(drawn)
    parts.append(_labels(comparison, others, position, area))
    title = f"{comparison.name}: {comparison.kind.title} against file size"
    return svg.drawing(name, title, size_description(comparison), WIDTH, HEIGHT, *parts)


def size_description(comparison: Comparison) -> str:
    """Describe the size chart in words."""
    frontier = comparison.frontier
    ends = " to ".join(
        f"{comparison.text(outcome)} in {megabytes(outcome.nbytes)}"
        for outcome in dict.fromkeys((frontier[0], frontier[-1]))
    )
    return (
        f"{len(comparison.outcomes)} runs by {comparison.kind.title} and file size. "
        f"The frontier has {len(frontier)} of them, from {ends}."
    )


def _labels(
    comparison: Comparison, others: Iterable[Outcome], position: Position, area: Box
) -> Markup:
    # Priority: the advised run, the baselines, then the rest of the frontier from the top.
    frontier, pick = comparison.frontier, comparison.smallest(ADVISED_LOSS)
    baselines = [outcome for outcome in others if outcome.is_baseline]
    first = [outcome for outcome in frontier if outcome is pick or outcome.is_baseline]
    rest = [outcome for outcome in reversed(frontier) if outcome not in first]
    labels = [
        *(_frontier_label(o, position, "label pick" if o is pick else "label") for o in first),
        *(
            Label(*position(o), short_label(o), "label baseline", _BASELINE_CORNERS)
            for o in baselines
        ),
        *(_frontier_label(o, position, "label") for o in rest),
    ]
    occupied = [
        Box(across - 5, down - 5, across + 5, down + 5)
        for across, down in map(position, [*frontier, *baselines])
    ]
    return svg.placed_labels(labels, Box(area.left, 18, WIDTH, area.bottom), occupied)


def _frontier_label(outcome: Outcome, position: Position, class_: str) -> Label:
    words = short_label(outcome)
    if outcome.granularity in ("channel", "scale"):
        words += f", {outcome.granularity}"
    return Label(*position(outcome), words, class_, ("above left", "below right"))

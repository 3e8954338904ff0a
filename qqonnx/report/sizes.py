"""The chart of quality against file size, with the frontier and the baselines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qqonnx.report import svg
from qqonnx.report.quality import HEIGHT, WIDTH, quality_axis, quality_scale, tip
from qqonnx.report.svg import Box, Label, Scale, element
from qqonnx.report.wording import QUALITIES, megabytes, percent, short_label
from qqonnx.sweep.grid import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from markupsafe import Markup

    from qqonnx.report.outcomes import Outcome
    from qqonnx.report.subjects import Subject

    Place = Callable[[Outcome], tuple[float, float]]

_ROUND_SIZES = [
    float(f"{digit}e{power}") for digit in (1, 2, 5, 3, 7, 4, 6, 8, 9) for power in range(-4, 5)
]
"""Ticks, those to keep where there is little room first."""


def size_chart(name: str, subject: Subject, detailed: frozenset[int]) -> Markup:
    """Draw quality against file size, with the frontier and the baselines.

    Args:
        name: unique in the page.
        subject: what to draw.
        detailed: numbers of runs that the page has details of; their marks lead there.
    """
    area = Box(42, 40, WIDTH - 14, HEIGHT - 42)
    frontier = subject.frontier
    sizes = [outcome.numbers["file_bytes"] / 1e6 for outcome in subject.outcomes]
    x = Scale(min(sizes) / 1.12, max(sizes) * 1.12, area.left, area.right, math.log)
    y = quality_scale(subject, subject.outcomes, area)

    def place(outcome: Outcome) -> tuple[float, float]:
        return x(outcome.numbers["file_bytes"] / 1e6), y(100 * subject.of(outcome))

    parts = [
        svg.axes(
            area,
            (x, x.ticks_among(_ROUND_SIZES, 30), "file size, MB (log scale)"),
            quality_axis(subject, y),
        )
    ]
    if subject.reference is not None:
        for loss, words in ((0.0, ""), (0.01, "1 point below float32")):
            if 100 * (subject.reference - loss) > y.low:
                at = y(100 * (subject.reference - loss))
                parts.append(svg.path([(area.left, at), (area.right, at)], "reference"))
                parts.append(svg.text(area.right, at + svg.FONT, words, "quiet", "end"))
    others = [outcome for outcome in subject.outcomes if outcome not in frontier]
    for outcome in sorted(others, key=lambda o: o.is_baseline):
        class_ = "baseline" if outcome.is_baseline else "run"
        told = tip(subject, outcome)
        parts.append(svg.mark(_size_shape(outcome), *place(outcome), 3.4, class_, told))
    stairs: list[tuple[float, float]] = []
    for across, down in map(place, frontier):
        stairs += [(across, stairs[-1][1] if stairs else area.bottom), (across, down)]
    parts.append(svg.path([*stairs, (area.right, stairs[-1][1])], "frontier"))
    for outcome in frontier:
        class_ = "best baseline" if outcome.is_baseline else "best"
        told = tip(subject, outcome)
        drawn = svg.mark(_size_shape(outcome), *place(outcome), 4.6, class_, told)
        if outcome.number in detailed:
            drawn = element("a", drawn, href=f"#run-{outcome.number}", aria_label=told)
        parts.append(drawn)
    parts.append(_size_labels(subject, others, place, area))
    title = f"{subject.name}: quality against file size"
    return svg.drawing(name, title, size_words(subject), WIDTH, HEIGHT, *parts)


def size_words(subject: Subject) -> str:
    """Tell what the chart of sizes shows."""
    frontier = subject.frontier
    first, last = frontier[0], frontier[-1]
    ends = " to ".join(
        f"{percent(subject.of(outcome))} in {megabytes(outcome.numbers['file_bytes'])}"
        for outcome in dict.fromkeys((first, last))
    )
    return (
        f"{len(subject.outcomes)} runs by {QUALITIES[subject.quality]} and file size. "
        f"The frontier has {len(frontier)} of them, from {ends}."
    )


def _size_shape(outcome: Outcome) -> str:
    if outcome.is_baseline:
        return "square"
    return "up" if outcome.method == TARGET else "circle"


def _size_labels(subject: Subject, others: Iterable[Outcome], place: Place, area: Box) -> Markup:
    # What to pick first, then the baselines, then the rest of the frontier from the top.
    frontier, pick = subject.frontier, subject.smallest(0.01)
    baselines = [outcome for outcome in others if outcome.is_baseline]
    first = [outcome for outcome in frontier if outcome is pick or outcome.is_baseline]
    rest = [outcome for outcome in reversed(frontier) if outcome not in first]
    around = (
        "below right", "at right", "below left", "above right", "at left", "above left",
    )  # fmt: skip
    labels = [
        *(_frontier_label(o, place, "label pick" if o is pick else "label") for o in first),
        *(Label(*place(o), short_label(o), "label baseline", around) for o in baselines),
        *(_frontier_label(o, place, "label") for o in rest),
    ]
    taken = [
        Box(across - 5, down - 5, across + 5, down + 5)
        for across, down in map(place, [*frontier, *baselines])
    ]
    return svg.placed_labels(labels, Box(area.left, 18, WIDTH, area.bottom), taken)


def _frontier_label(outcome: Outcome, place: Place, class_: str) -> Label:
    across, down = place(outcome)
    words = short_label(outcome)
    if outcome.granularity in ("channel", "scale"):
        words += f", {outcome.granularity}"
    return Label(across, down, words, class_, ("above left", "below right"))

"""The two charts of a subject: quality against size, and against bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from qqonnx.report import svg
from qqonnx.report.svg import Box, Label, Scale, element
from qqonnx.report.wording import QUALITIES, label, megabytes, percent, short_label
from qqonnx.sweep.baselines import FLOAT32
from qqonnx.sweep.grid import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from qqonnx.report.outcomes import Outcome
    from qqonnx.report.subjects import Subject

    Place = Callable[[Outcome], tuple[float, float]]

WIDTH, HEIGHT = 480, 390

STRETCH = 1.0
"""Points below the best from which on the axis of quality grows by ratios of what is lost."""

_LOOKS = {
    "uq": (0, "square"),
    "pwlq": (1, "up"),
    "pwlq-gauss": (4, "column"),
    "pwlq-laplace": (5, "bar"),
    "pwlq-paper": (2, "down"),
    "uniq": (5, "square"),
    "nf": (4, "diamond"),
    "qq": (3, "circle"),
    "qq-median": (1, "bar"),
    "qq-midpoint": (2, "column"),
    "qq-nearest": (0, "up"),
    "qq-tails": (4, "down"),
    "qq-alpha": (5, "circle"),
    "qq-greedy": (0, "column"),
    "kmeans": (6, "diamond"),
}
"""Color, of Okabe and Ito's palette in the style sheet, and mark of each method; no two alike."""

_OTHER_LOOKS = [(color, shape) for shape in ("up", "square", "bar") for color in (3, 6, 2)]


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
    y = _quality_scale(subject, subject.outcomes, area)

    def place(outcome: Outcome) -> tuple[float, float]:
        return x(outcome.numbers["file_bytes"] / 1e6), y(100 * subject.of(outcome))

    parts = [
        svg.axes(
            area,
            (x, x.ticks_among(_ROUND_SIZES, 30), "file size, MB (log scale)"),
            _quality_axis(subject, y),
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
        tip = _tip(subject, outcome)
        parts.append(svg.mark(_size_shape(outcome), *place(outcome), 3.4, class_, tip))
    stairs: list[tuple[float, float]] = []
    for across, down in map(place, frontier):
        stairs += [(across, stairs[-1][1] if stairs else area.bottom), (across, down)]
    parts.append(svg.path([*stairs, (area.right, stairs[-1][1])], "frontier"))
    for outcome in frontier:
        class_ = "best baseline" if outcome.is_baseline else "best"
        tip = _tip(subject, outcome)
        drawn = svg.mark(_size_shape(outcome), *place(outcome), 4.6, class_, tip)
        if outcome.number in detailed:
            drawn = element("a", drawn, href=f"#run-{outcome.number}", aria_label=tip)
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


_ROUND_SIZES = [
    float(f"{digit}e{power}") for digit in (1, 2, 5, 3, 7, 4, 6, 8, 9) for power in range(-4, 5)
]
_ROUND_SHARES = [100, 90, 50, 0, 80, 95, 98, 99, 70, 60, 30, 20, 40, 10, 97, 96, 99.5, 99.8, 99.9]
"""Ticks, those to keep where there is little room first."""


def _quality_scale(subject: Subject, outcomes: Iterable[Outcome], area: Box) -> Scale:
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


def _quality_axis(subject: Subject, y: Scale) -> tuple[Scale, list[float], str]:
    return (
        y,
        y.ticks_among(_ROUND_SHARES, 22),
        f"{QUALITIES[subject.quality]}, % (stretched near float)",
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


class Series(NamedTuple):
    """A line of the chart of bits: its label, class, mark and runs, by bits ascending."""

    label: str
    class_: str
    shape: str
    runs: tuple[Outcome, ...]


def bits_charts(name: str, subject: Subject) -> list[tuple[str, Markup, str]]:
    """Draw quality against bits, a chart for each granularity of codebooks.

    Args:
        name: unique in the page.
        subject: what to draw.

    Returns:
        Granularity, drawing and description of each.
    """
    wide = [o for o in subject.outcomes if o.index_bits is not None]
    if not wide:
        return []
    kinds = [kind for kind in ("tensor", "channel", "scale", "") if _methods(wide, kind)]
    return [
        (kind, *_bits_chart(f"{name}-{kind or 'other'}", subject, wide, kind))
        for kind in kinds or [""]
    ]


def _methods(wide: Iterable[Outcome], granularity: str) -> list[str]:
    own = (o for o in wide if not o.is_baseline and o.method != TARGET)
    return sorted({o.method for o in own if o.granularity == granularity})


def _bits_chart(
    name: str, subject: Subject, wide: Sequence[Outcome], granularity: str
) -> tuple[Markup, str]:
    area = Box(42, 40, WIDTH - 126, HEIGHT - 42)
    found = _series(wide, granularity)
    drawn = [outcome for series in found for outcome in series.runs]
    bits = [_bits(outcome) for outcome in drawn]
    x = Scale(min(*bits, 1) - 0.2, max(*bits, 2) + 0.2, area.left, area.right)
    y = _quality_scale(subject, drawn, area)
    ticks = [float(tick) for tick in range(1, 17) if x.low <= tick <= x.high]
    parts = [svg.axes(area, (x, ticks, "bits of index stored a weight"), _quality_axis(subject, y))]
    lines = []
    for series in found:
        points = [(x(_bits(o)), y(100 * subject.of(o))) for o in series.runs]
        lines.append((points, series.class_, series.shape, series.label, series.runs))
    if subject.reference is not None:
        at = y(100 * subject.reference)
        lines.append(([(area.left, at), (area.right, at)], "reference", "", FLOAT32, ()))
    lines.sort(key=lambda line: (line[0][-1][1], sum(p[1] for p in line[0]) / len(line[0])))
    heights = svg.spread([line[0][-1][1] for line in lines], area.top - 6, area.bottom)
    for (points, class_, shape, words, runs), height in zip(lines, heights, strict=True):
        end = area.right + 12
        marks = [
            svg.mark(shape, *point, 3.3, "dot", _tip(subject, outcome))
            for point, outcome in zip(points, runs, strict=False)
        ]
        parts.append(
            element(
                "g",
                svg.path(points, "line") if len(points) > 1 else Markup(),
                svg.path([points[-1], (end, height)], "leader"),
                *marks,
                svg.text(end + 4, height + svg.FONT / 3, words, "end"),
                class_=f"series {class_}",
            )
        )
    words = _bits_words(subject, found)
    title = f"{subject.name}: quality against bits"
    return svg.drawing(name, title, words, WIDTH, HEIGHT, *parts), words


def _series(wide: Sequence[Outcome], granularity: str) -> list[Series]:
    """Return methods of a granularity, calibrated runs, and baselines that have bits."""
    groups = [
        (method, [o for o in wide if (o.method, o.granularity) == (method, granularity)])
        for method in _methods(wide, granularity)
    ]
    found = []
    unknown = 0
    for method, runs in groups:
        if method in _LOOKS:
            color, shape = _LOOKS[method]
        else:  # a plug-in's
            color, shape = _OTHER_LOOKS[unknown % len(_OTHER_LOOKS)]
            unknown += 1
        found.append(Series(method, f"c{color}", shape, _by_bits(runs)))
    targets = [o for o in wide if o.method == TARGET]
    if targets:
        found.append(Series("calibrated", "calibrated", "up", _by_bits(targets)))
    for method in sorted({o.method for o in wide if o.is_baseline}):
        runs = [o for o in wide if o.method == method and o.is_baseline]
        found.append(Series(method, "baseline", "square", _by_bits(runs)))
    return [series._replace(label=series.label[:18]) for series in found]


def _by_bits(runs: Iterable[Outcome]) -> tuple[Outcome, ...]:
    return tuple(sorted(runs, key=lambda outcome: (_bits(outcome), outcome.number)))


def _bits(outcome: Outcome) -> float:
    bits = outcome.index_bits
    assert bits is not None
    return bits


def _bits_words(subject: Subject, found: Iterable[Series]) -> str:
    parts = []
    for series in found:
        first, last = series.runs[0], series.runs[-1]
        ends = " to ".join(
            f"{percent(subject.of(o))} at {svg.number(round(_bits(o), 2))} bits"
            for o in dict.fromkeys((first, last))
        )
        parts.append(f"{series.label}: {ends}")
    return f"{QUALITIES[subject.quality].capitalize()} by bits. {'; '.join(parts)}."


def _tip(subject: Subject, outcome: Outcome) -> str:
    return (
        f"{label(outcome)}: {percent(subject.of(outcome))}, "
        f"{megabytes(outcome.numbers['file_bytes'])}"
    )

"""The charts of quality against bits, a line for each method."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from qqonnx.report import svg
from qqonnx.report.quality import HEIGHT, WIDTH, quality_axis, quality_scale, tip
from qqonnx.report.svg import Box, Scale, element
from qqonnx.report.wording import QUALITIES, percent
from qqonnx.sweep.baselines import FLOAT32
from qqonnx.sweep.grid import TARGET

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qqonnx.report.outcomes import Outcome
    from qqonnx.report.subjects import Subject

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
    y = quality_scale(subject, drawn, area)
    ticks = [float(tick) for tick in range(1, 17) if x.low <= tick <= x.high]
    parts = [svg.axes(area, (x, ticks, "bits of index stored a weight"), quality_axis(subject, y))]
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
            svg.mark(shape, *point, 3.3, "dot", tip(subject, outcome))
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

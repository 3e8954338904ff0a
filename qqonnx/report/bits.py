"""Charts of score against bits, with one line per method."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from qqonnx.config import AUTO
from qqonnx.report import svg
from qqonnx.report.score_axis import HEIGHT, WIDTH, score_axis, score_scale, tooltip
from qqonnx.report.svg import Box, Scale, element
from qqonnx.sweep.baselines import FLOAT32
from qqonnx.sweep.grid import TARGET

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qqonnx.report.comparisons import Comparison
    from qqonnx.report.outcomes import Outcome

_STYLES = {
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
"""Color number and marker of each method. Okabe and Ito's colors are in the style sheet."""

_PLUGIN_STYLES = [(color, shape) for shape in ("up", "square", "bar") for color in (3, 6, 2)]


class Series(NamedTuple):
    """A line of the chart: label, CSS class, marker, and runs by ascending bits."""

    label: str
    class_: str
    shape: str
    runs: tuple[Outcome, ...]


def bits_charts(name: str, comparison: Comparison) -> list[tuple[str, Markup, str]]:
    """Draw one chart of score against bits for each granularity.

    Args:
        name: the start of the charts' ids, unique in the page.
        comparison: the runs.

    Returns:
        Granularity, chart and description of each chart.
    """
    runs = [o for o in comparison.outcomes if o.index_bits is not None]
    if not runs:
        return []
    granularities = [kind for kind in ("tensor", "channel", "scale", "") if _methods(runs, kind)]
    return [
        (kind, *_bits_chart(f"{name}-{kind or 'other'}", comparison, _series(runs, kind)))
        for kind in granularities or [""]
    ]


def _methods(runs: Iterable[Outcome], granularity: str) -> list[str]:
    codebooks = (o for o in runs if not o.is_baseline and o.method not in (TARGET, AUTO))
    return sorted({o.method for o in codebooks if o.granularity == granularity})


def _series(runs: Sequence[Outcome], granularity: str) -> list[Series]:
    """Return the methods of a granularity, the calibrated runs, and the baselines."""
    series = []
    plugins = 0
    for method in _methods(runs, granularity):
        if method in _STYLES:
            color, shape = _STYLES[method]
        else:
            color, shape = _PLUGIN_STYLES[plugins % len(_PLUGIN_STYLES)]
            plugins += 1
        members = (o for o in runs if (o.method, o.granularity) == (method, granularity))
        series.append(Series(method[:18], f"c{color}", shape, _by_bits(members)))
    for method, name, shape in ((AUTO, AUTO, "diamond"), (TARGET, "calibrated", "up")):
        for compute in sorted({o.compute for o in runs if o.method == method}):
            members = (o for o in runs if (o.method, o.compute) == (method, compute))
            title = name if compute == "float" else f"{name}, int8"
            series.append(Series(title, "calibrated", shape, _by_bits(members)))
    for method in sorted({o.method for o in runs if o.is_baseline}):
        members = (o for o in runs if o.method == method and o.is_baseline)
        series.append(Series(method[:18], "baseline", "square", _by_bits(members)))
    return series


def _by_bits(runs: Iterable[Outcome]) -> tuple[Outcome, ...]:
    return tuple(sorted(runs, key=lambda outcome: (_bits(outcome), outcome.number)))


def _bits(outcome: Outcome) -> float:
    bits = outcome.index_bits
    assert bits is not None
    return bits


def _bits_chart(
    name: str, comparison: Comparison, all_series: Sequence[Series]
) -> tuple[Markup, str]:
    area = Box(42, 40, WIDTH - 126, HEIGHT - 42)
    runs = [outcome for series in all_series for outcome in series.runs]
    bits = [_bits(outcome) for outcome in runs]
    x = Scale(min(*bits, 1) - 0.2, max(*bits, 2) + 0.2, area.left, area.right)
    y = score_scale(comparison, runs, area)
    ticks = [float(tick) for tick in range(1, 17) if x.low <= tick <= x.high]
    parts = [svg.axes(area, (x, ticks, "index bits per weight"), score_axis(comparison, y))]
    lines = [
        (
            [(x(_bits(o)), y(comparison.kind.unit * comparison.score(o))) for o in series.runs],
            series,
        )
        for series in all_series
    ]
    if comparison.reference is not None:
        height = y(comparison.kind.unit * comparison.reference)
        ends = [(area.left, height), (area.right, height)]
        lines.append((ends, Series(FLOAT32, "reference", "", ())))
    # Lines that end at the same height are labelled in the order of their mean heights.
    lines.sort(key=lambda line: (line[0][-1][1], fmean(down for _, down in line[0])))
    heights = svg.spread([points[-1][1] for points, _ in lines], area.top - 6, area.bottom)
    end = area.right + 12
    for (points, series), height in zip(lines, heights, strict=True):
        marks = [
            svg.mark(series.shape, *point, 3.3, "dot", tooltip(comparison, outcome))
            for point, outcome in zip(points, series.runs, strict=False)
        ]
        parts.append(
            element(
                "g",
                svg.path(points, "line") if len(points) > 1 else Markup(),
                svg.path([points[-1], (end, height)], "leader"),
                *marks,
                svg.text(end + 4, height + svg.FONT / 3, series.label, "end"),
                class_=f"series {series.class_}",
            )
        )
    description = _description(comparison, all_series)
    title = f"{comparison.name}: {comparison.kind.title} against bits"
    return svg.drawing(name, title, description, WIDTH, HEIGHT, *parts), description


def _description(comparison: Comparison, all_series: Iterable[Series]) -> str:
    parts = []
    for series in all_series:
        ends = " to ".join(
            f"{comparison.text(o)} at {svg.number(round(_bits(o), 2))} bits"
            for o in dict.fromkeys((series.runs[0], series.runs[-1]))
        )
        parts.append(f"{series.label}: {ends}")
    return f"{_capitalized(comparison.kind.title)} by bits. {'; '.join(parts)}."


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]

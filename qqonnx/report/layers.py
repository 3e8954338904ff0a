"""Charts of one run's layers: bits and error of each layer, and weight histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qqonnx.report import svg
from qqonnx.report.formatting import percent, shortened
from qqonnx.report.svg import Box, Scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from qqonnx.report.outcomes import Histogram, Layer

LAYERS_WIDTH, LAYERS_HEIGHT = 1080, 300
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 352, 210

LAYERS_LEFT, LAYERS_RIGHT = 46, 10
"""Margins of the layers chart. page.js needs them to find the layer under the pointer."""


def layers_chart(name: str, layers: Sequence[Layer]) -> Markup:
    """Draw bits and relative error of each layer, in the model's order."""
    right = LAYERS_WIDTH - LAYERS_RIGHT
    upper = Box(LAYERS_LEFT, 36, right, 134)
    lower = Box(LAYERS_LEFT, 186, right, LAYERS_HEIGHT - 10)
    step = (right - LAYERS_LEFT) / len(layers)
    edges = [LAYERS_LEFT + step * i for i in range(len(layers) + 1)]
    bits = [layer.bits for layer in layers]
    errors = [100 * (layer.error or 0.0) for layer in layers]
    # All runs share the scale of bits, so that their charts compare.
    bits_scale = Scale(0, max(*bits, 8.0), upper.bottom, upper.top)
    error_scale = Scale(0, max(*errors, 1e-9) * 1.05, lower.bottom, lower.top)
    error_ticks = error_scale.ticks(4)
    parts = []
    for area, values, y, ticks, title, class_ in (
        (upper, bits, bits_scale, [0.0, 2, 4, 6, 8], "index bits per weight", "bits"),
        (lower, errors, error_scale, error_ticks, "relative error of the weights, %", "error"),
    ):
        parts += [
            *svg.horizontal_grid(area, y, ticks, title),
            svg.bars(edges, [y(value) for value in values], area.bottom, f"bars {class_}"),
        ]
        if step > 4:
            parts.append(svg.vertical_lines(edges[1:-1], area.top, area.bottom, "gap"))
    title = "Bits and error of each layer"
    description = layers_description(layers)
    return svg.drawing(name, title, description, LAYERS_WIDTH, LAYERS_HEIGHT, *parts)


def layers_description(layers: Sequence[Layer]) -> str:
    """Describe the layers chart in words."""
    bits = [layer.bits for layer in layers]
    low, high = svg.number(min(bits)), svg.number(max(bits))
    words = f"{len(layers)} layers, {low if low == high else f'{low} to {high}'} bits."
    known = [(layer.error, layer.name) for layer in layers if layer.error is not None]
    if known:
        error, name = max(known, key=lambda entry: entry[0])
        words += f" {shortened(name)} has the largest relative error, {percent(error)}."
    return words


def histogram_chart(name: str, histogram: Histogram) -> Markup:
    """Draw a weight's histogram with its levels as ticks, and as lines if they are few."""
    area = Box(10, 22, HISTOGRAM_WIDTH - 10, HISTOGRAM_HEIGHT - 48)
    values = (*histogram.edges, *histogram.levels)
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 1, high + 1
    x = Scale(low, high, area.left, area.right)
    y = Scale(0, max(*histogram.counts, 1), area.bottom, area.top)
    edges, tops = [x(edge) for edge in histogram.edges], [y(c) for c in histogram.counts]
    # More than 32 lines would hide the histogram.
    top = area.top if len(histogram.levels) <= 32 else area.bottom + 2
    levels = [x(level) for level in histogram.levels]
    middle = (area.left + area.right) / 2
    return svg.drawing(
        name,
        f"Weights of {shortened(histogram.name)} and their levels",
        histogram_description(histogram),
        HISTOGRAM_WIDTH,
        HISTOGRAM_HEIGHT,
        svg.bars(edges, tops, area.bottom, "bars weights"),
        svg.path([(area.left, area.bottom), (area.right, area.bottom)], "axis"),
        svg.vertical_lines(levels, top, area.bottom + 9, "level"),
        *(
            svg.text(x(value), area.bottom + 24, svg.number(value), "tick", "middle")
            for value in x.ticks(4)
        ),
        svg.text(middle, area.bottom + 41, "weight", "title", "middle"),
    )


def histogram_description(histogram: Histogram) -> str:
    """Describe a histogram in words."""
    levels, edges = histogram.levels, histogram.edges
    words = (
        f"{sum(histogram.counts):,} weights from {svg.number(edges[0])} to "
        f"{svg.number(edges[-1])}; {len(levels)} levels"
    )
    if levels:
        words += f" from {svg.number(levels[0])} to {svg.number(levels[-1])}"
    return words + "."

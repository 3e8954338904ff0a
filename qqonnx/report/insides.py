"""What is in one run's model: bits and error of each layer, and weights with their levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qqonnx.report import svg
from qqonnx.report.svg import Box, Scale
from qqonnx.report.wording import percent, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from qqonnx.report.outcomes import Histogram, Layer

LAYERS_WIDTH, LAYERS_HEIGHT = 1080, 300
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 352, 210

LAYERS_LEFT, LAYERS_RIGHT = 46, 10
"""Margins of the chart of layers; the page's script finds the layer under the pointer by them."""


def layers_chart(name: str, layers: Sequence[Layer]) -> Markup:
    """Draw each layer's bits above its relative error, side by side in the model's order."""
    right = LAYERS_WIDTH - LAYERS_RIGHT
    upper = Box(LAYERS_LEFT, 36, right, 134)
    lower = Box(LAYERS_LEFT, 186, right, LAYERS_HEIGHT - 10)
    step = (right - LAYERS_LEFT) / len(layers)
    edges = [LAYERS_LEFT + step * at for at in range(len(layers) + 1)]
    bits = [layer.bits for layer in layers]
    errors = [100 * (layer.error or 0.0) for layer in layers]
    of_bits = Scale(0, max(*bits, 8.0), upper.bottom, upper.top)  # the same for all runs
    of_errors = Scale(0, max(*errors, 1e-9) * 1.05, lower.bottom, lower.top)
    parts = []
    for area, values, y, ticks, title, class_ in (
        (upper, bits, of_bits, [0.0, 2, 4, 6, 8], "bits of index stored a weight", "bits"),
        (lower, errors, of_errors, of_errors.ticks(4), "relative error of the weights, %", "error"),
    ):
        parts += [
            *svg.level_grid(area, y, ticks, title),
            svg.bars(edges, [y(value) for value in values], area.bottom, f"bars {class_}"),
        ]
        if step > 4:
            parts.append(svg.strokes(edges[1:-1], area.top, area.bottom, "gap"))
    return svg.drawing(
        name,
        "Bits and error of each layer",
        layers_words(layers),
        LAYERS_WIDTH,
        LAYERS_HEIGHT,
        *parts,
    )


def layers_words(layers: Sequence[Layer]) -> str:
    """Tell what the chart of layers shows."""
    bits = [layer.bits for layer in layers]
    low, high = svg.number(min(bits)), svg.number(max(bits))
    words = f"{len(layers)} layers, {low if low == high else f'{low} to {high}'} bits."
    known = [layer for layer in layers if layer.error is not None]
    if known:
        worst = max(known, key=lambda layer: layer.error or 0.0)
        error = percent(worst.error or 0.0)
        words += f" The greatest relative error, {error}, has {shortened(worst.name)}."
    return words


def histogram_chart(name: str, histogram: Histogram) -> Markup:
    """Draw how often values occur, and the levels as ticks below and lines above."""
    area = Box(10, 22, HISTOGRAM_WIDTH - 10, HISTOGRAM_HEIGHT - 48)
    ends = (*histogram.edges, *histogram.levels)
    low, high = min(ends), max(ends)
    if low == high:
        low, high = low - 1, high + 1
    x = Scale(low, high, area.left, area.right)
    y = Scale(0, max(*histogram.counts, 1), area.bottom, area.top)
    edges, tops = [x(edge) for edge in histogram.edges], [y(c) for c in histogram.counts]
    parts = [
        svg.bars(edges, tops, area.bottom, "bars weights"),
        svg.path([(area.left, area.bottom), (area.right, area.bottom)], "axis"),
    ]
    # So many lines would hide the histogram; ticks tell where they are.
    few = len(histogram.levels) <= 32
    top = area.top if few else area.bottom + 2
    parts.append(
        svg.strokes([x(level) for level in histogram.levels], top, area.bottom + 9, "level")
    )
    parts += [
        svg.text(x(value), area.bottom + 24, svg.number(value), "tick", "middle")
        for value in x.ticks(4)
    ]
    middle = (area.left + area.right) / 2
    parts.append(svg.text(middle, area.bottom + 41, "weight", "title", "middle"))
    return svg.drawing(
        name,
        f"Weights of {shortened(histogram.name)} and their levels",
        histogram_words(histogram),
        HISTOGRAM_WIDTH,
        HISTOGRAM_HEIGHT,
        *parts,
    )


def histogram_words(histogram: Histogram) -> str:
    """Tell what a histogram shows."""
    levels, edges = histogram.levels, histogram.edges
    words = (
        f"{sum(histogram.counts):,} weights from {svg.number(edges[0])} to "
        f"{svg.number(edges[-1])}; {len(levels)} levels"
    )
    if levels:
        words += f" from {svg.number(levels[0])} to {svg.number(levels[-1])}"
    return words + "."

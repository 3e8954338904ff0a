"""How the study's figures look: sizes, direct labels, and files that do not differ by run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qqonnx.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qqonnx.study.schemes import Scheme

DPI = 110
FONT = 9.5
GRAY = "#666666"

_STYLE = {
    "font.size": FONT,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": FONT + 1,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": FONT,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Line(NamedTuple):
    """A curve over bit-widths.

    Attributes:
        scheme: gives color, marker and, without `label`, the label.
        points: value by bit-width.
        label: what stands at its end.
        dashed: for curves that are not to be compared at equal bits.
    """

    scheme: Scheme
    points: Mapping[int, float]
    label: str | None = None
    dashed: bool = False


class End(NamedTuple):
    """A drawn line to be labelled: its points, text, color, marker and style."""

    x: Sequence[float]
    y: Sequence[float]
    text: str
    color: str
    marker: str = ""
    style: str = "-"


def panels(
    rows: int, columns: int, width: float, height: float, **adjust: float
) -> tuple[Any, Any]:
    """Return a figure in inches and its axes [rows, columns]; `adjust` as in subplots_adjust."""
    figure = import_extra("matplotlib.figure", "study").Figure((width, height), dpi=DPI)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(**adjust)
    return figure, axes


def png(draw: Callable[[], Any]) -> bytes:
    """Return the figure that `draw` returns as a PNG file, the same bytes whenever it is drawn."""
    matplotlib = import_extra("matplotlib", "study")
    image_module = import_extra("PIL.Image", "images")
    drawn, small = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        draw().savefig(drawn, format="png", dpi=DPI)
    # Flat colors fit a palette, which makes the file three times smaller.
    image = image_module.open(drawn).convert("RGB")
    image.quantize(128, dither=image_module.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def curves(axes: Any, lines: Sequence[Line], *, log: bool = False, factor: float = 1) -> None:
    """Draw lines over bit-widths, each labelled at its end in its color."""
    ends = []
    for line in lines:
        points = sorted(line.points.items())
        if not points:
            continue
        x, y = [bits for bits, _ in points], [factor * value for _, value in points]
        scheme, style = line.scheme, "--" if line.dashed else "-"
        axes.plot(x, y, color=scheme.color, marker=scheme.marker, linestyle=style)
        ends.append(End(x, y, line.label or scheme.label, scheme.color, scheme.marker, style))
    if log:
        log_scale(axes)
    axes.set_xticks(range(1, 9))
    axes.set_xlim(0.8, 8.2)
    label_ends(axes, ends)


def log_scale(axes: Any) -> None:
    """Make the y axis logarithmic, its ticks plain numbers, no closer than at 1, 2 and 5."""
    ticker = import_extra("matplotlib.ticker", "study")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high / low < 50 else (1,)
    axes.yaxis.set_major_locator(ticker.LogLocator(10, subs=steps))
    if high / low < 1e4:
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def label_ends(axes: Any, ends: Sequence[End]) -> None:
    """Write labels right of the axes, about where their lines end, each with a piece of line.

    Lines that end together are labelled in the order of their mean heights.
    """
    if not ends:
        return
    gap = (FONT * 1.25 * DPI / 72) / axes.get_window_extent().height
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [to_axes.transform(list(zip(end.x, end.y, strict=True)))[:, 1] for end in ends]
    last = np.clip([height[-1] for height in heights], 0.0, 1.0)
    order = np.argsort(last + 0.5 * np.array([height.mean() for height in heights]), kind="stable")
    placed = _spread(np.maximum.accumulate(last[order]), gap)
    for at, height in zip(order.tolist(), placed.tolist(), strict=True):
        end = ends[at]
        axes.plot(
            [1.025, 1.06, 1.095],
            [height] * 3,
            color=end.color,
            marker=end.marker,
            markevery=[1],
            linestyle=end.style,
            linewidth=1.3,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(1.115, height, end.text, color=end.color, va="center", transform=axes.transAxes)


def _spread(heights: Any, gap: float) -> Any:
    """Return ascending heights at least `gap` apart, moved as little as one pass allows."""
    placed = heights.copy()
    for i in range(1, placed.size):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    over = placed[-1] - max(1.0, heights[-1])
    if over > 0:
        placed[-1] -= over
        for i in range(placed.size - 2, -1, -1):
            placed[i] = min(placed[i], placed[i + 1] - gap)
    return placed


def bars(
    axes: Any,
    labels: Sequence[str],
    values: Sequence[float],
    colors: Sequence[str],
    form: str = "{:.2f}",
    lowest: float = -np.inf,
) -> None:
    """Draw horizontal bars from top to bottom, each with its value beside it.

    Bars below `lowest` end there, and say so.
    """
    places = np.arange(len(labels))[::-1]
    shown = np.maximum(np.nan_to_num(np.asarray(values, np.float64)), lowest)
    axes.barh(places, shown, color=list(colors), height=0.7)
    axes.set_yticks(places, labels)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    low, high = axes.get_xlim()
    span = high - low
    axes.set_xlim(low - (0.2 * span if low < 0 else 0), high + 0.2 * span)
    for place, value, length in zip(places, values, shown.tolist(), strict=True):
        text = "–" if np.isnan(value) else form.format(value).replace("-", "−")
        cut = value < lowest
        left = length < 0 and not cut
        axes.annotate(
            f"{text} (bar cut)" if cut else text,
            (max(length, 0) if not left else length, place),
            (-4 if left else 4, 0),
            textcoords="offset points",
            va="center",
            ha="right" if left else "left",
            color=GRAY,
        )

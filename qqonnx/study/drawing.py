"""The look of the study's figures: sizes, direct labels, and reproducible files."""

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


class Curve(NamedTuple):
    """A curve with a label at its end; `width` None is the default line width."""

    x: Sequence[float]
    y: Sequence[float]
    label: str
    color: str
    marker: str = ""
    style: str = "-"
    width: float | None = None


def scheme_curve(
    scheme: Scheme,
    points: Mapping[int, float],
    label: str | None = None,
    *,
    style: str = "-",
    factor: float = 1,
) -> Curve:
    """Return the curve of a scheme over bits.

    Args:
        scheme: gives color, marker and the default label.
        points: values by bits.
        label: another label.
        style: matplotlib's line style.
        factor: multiplies the values.
    """
    bits = sorted(points)
    y = [factor * points[b] for b in bits]
    return Curve(bits, y, label or scheme.label, scheme.color, scheme.marker, style)


def panels(
    rows: int, columns: int, width: float, height: float, **adjust: float
) -> tuple[Any, Any]:
    """Return a figure, sized in inches, and its axes [rows, columns].

    `adjust` goes to matplotlib's `subplots_adjust`.
    """
    figure = import_extra("matplotlib.figure", "study").Figure((width, height), dpi=DPI)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(**adjust)
    return figure, axes


def png(draw: Callable[[], Any]) -> bytes:
    """Return the figure that `draw` returns as a PNG file; the same figure gives the same bytes."""
    matplotlib = import_extra("matplotlib", "study")
    image_module = import_extra("PIL.Image", "images")
    drawn, small = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        draw().savefig(drawn, format="png", dpi=DPI)
    # Flat colors fit a palette, which makes the file three times smaller.
    image = image_module.open(drawn).convert("RGB")
    image.quantize(128, dither=image_module.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def draw_curves(axes: Any, curves: Sequence[Curve], *, log: bool = False) -> None:
    """Draw the curves that have points, each labelled at its end in its color.

    Args:
        axes: matplotlib's axes.
        curves: the curves.
        log: whether the y axis is logarithmic.
    """
    drawn = [curve for curve in curves if curve.x]
    for curve in drawn:
        axes.plot(
            curve.x,
            curve.y,
            color=curve.color,
            marker=curve.marker,
            linestyle=curve.style,
            linewidth=curve.width,
        )
    if log:
        _log_scale(axes)
    # The positions of the labels depend on the limits of the axes.
    axes.autoscale_view()
    _label_ends(axes, drawn)


def bits_axis(axes: Any, low: int = 1, high: int = 8) -> None:
    """Make the x axis an axis of stored bits."""
    axes.set_xticks(range(low, high + 1))
    axes.set_xlim(low - 0.2, high + 0.2)
    axes.set_xlabel("stored bits per weight")


def _log_scale(axes: Any) -> None:
    """Make the y axis logarithmic, with plain numbers as ticks at 1, 2 and 5 or only at 1."""
    ticker = import_extra("matplotlib.ticker", "study")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high / low < 50 else (1,)
    axes.yaxis.set_major_locator(ticker.LogLocator(10, subs=steps))
    if high / low < 1e4:
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _label_ends(axes: Any, curves: Sequence[Curve]) -> None:
    """Label curves to the right of the axes near their ends, with a line sample beside each label.

    Curves that end together are labelled in the order of their mean heights.
    """
    if not curves:
        return
    gap = (FONT * 1.25 * DPI / 72) / axes.get_window_extent().height
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [to_axes.transform(list(zip(c.x, c.y, strict=True)))[:, 1] for c in curves]
    last = np.clip([height[-1] for height in heights], 0.0, 1.0)
    order = np.argsort(last + 0.5 * np.array([height.mean() for height in heights]), kind="stable")
    placed = _spread(np.maximum.accumulate(last[order]), gap)
    for index, height in zip(order.tolist(), placed.tolist(), strict=True):
        curve = curves[index]
        axes.plot(
            [1.025, 1.06, 1.095],
            [height] * 3,
            color=curve.color,
            marker=curve.marker,
            markevery=[1],
            linestyle=curve.style,
            linewidth=1.3,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(
            1.115, height, curve.label, color=curve.color, va="center", transform=axes.transAxes
        )


def _spread(heights: Any, gap: float) -> Any:
    """Return ascending heights moved apart to distances of at least `gap`."""
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

    A bar below `lowest` is cut there and marked as cut.
    """
    rows = np.arange(len(labels))[::-1]
    lengths = np.maximum(np.nan_to_num(np.asarray(values, np.float64)), lowest)
    axes.barh(rows, lengths, color=list(colors), height=0.7)
    axes.axvline(0, color=GRAY, lw=0.8)
    axes.set_yticks(rows, labels)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    low, high = axes.get_xlim()
    span = high - low
    axes.set_xlim(low - (0.2 * span if low < 0 else 0), high + 0.2 * span)
    for row, value, length in zip(rows, values, lengths.tolist(), strict=True):
        text = "–" if np.isnan(value) else form.format(value).replace("-", "−")
        is_cut = value < lowest
        is_left = length < 0 and not is_cut
        axes.annotate(
            f"{text} (bar cut)" if is_cut else text,
            (length if is_left else max(length, 0), row),
            (-4 if is_left else 4, 0),
            textcoords="offset points",
            va="center",
            ha="right" if is_left else "left",
            color=GRAY,
        )

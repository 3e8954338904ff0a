"""How the study's figures look: sizes, direct labels, and files that do not differ by run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qqonnx.zoo.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def panels(
    rows: int, columns: int, width: float, height: float, **adjust: float
) -> tuple[Any, Any]:
    """Return a figure in inches and its axes [rows, columns]; `adjust` as in subplots_adjust."""
    matplotlib = import_extra("matplotlib", "study")
    with matplotlib.rc_context(_STYLE):
        figure = import_extra("matplotlib.figure", "study").Figure((width, height), dpi=DPI)
        axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(**adjust)
    return figure, axes


def png(figure: Any) -> bytes:
    """Return the figure as a PNG file, the same bytes whenever it is drawn."""
    matplotlib = import_extra("matplotlib", "study")
    with matplotlib.rc_context(_STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def curves(axes: Any, lines: Sequence[Line], *, log: bool = False, factor: float = 1) -> None:
    """Draw lines over bit-widths, each labelled at its end in its color."""
    ends = []
    for line in lines:
        points = sorted(line.points.items())
        if not points:
            continue
        x, y = [bits for bits, _ in points], [factor * value for _, value in points]
        axes.plot(
            x,
            y,
            color=line.scheme.color,
            marker=line.scheme.marker,
            linestyle="--" if line.dashed else "-",
        )
        ends.append((x[-1], y[-1], line.label or line.scheme.label, line.scheme.color))
    if log:
        axes.set_yscale("log")
    axes.set_xticks(range(1, 9))
    axes.set_xlim(0.8, 8.2)
    label_ends(axes, ends)


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write labels right of the axes at the heights of (x, y, text, color), moved apart."""
    if not ends:
        return
    box = axes.get_window_extent()
    gap = (FONT * 1.2 * DPI / 72) / box.height
    heights = axes.transAxes.inverted().transform(
        axes.transData.transform([(x, y) for x, y, _, _ in ends])
    )[:, 1]
    order = np.argsort(heights, kind="stable")
    placed = _spread(np.clip(heights[order], 0.0, 1.0), gap)
    for at, height in zip(order.tolist(), placed.tolist(), strict=True):
        x, y, text, color = ends[at]
        axes.annotate(
            text,
            (x, y),
            (1.04, height),
            textcoords="axes fraction",
            color=color,
            va="center",
            fontsize=FONT,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.6},
            annotation_clip=False,
        )


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
) -> None:
    """Draw horizontal bars from top to bottom, each with its value beside it."""
    places = np.arange(len(labels))[::-1]
    axes.barh(places, np.nan_to_num(np.asarray(values, np.float64)), color=list(colors), height=0.7)
    axes.set_yticks(places, labels)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    low, high = axes.get_xlim()
    axes.set_xlim(low - (0.14 * (high - low) if low < 0 else 0), high + 0.16 * (high - low))
    for place, value in zip(places, values, strict=True):
        text = "–" if np.isnan(value) else form.format(value)
        axes.annotate(
            text,
            (0 if np.isnan(value) else value, place),
            (4 if not value < 0 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if not value < 0 else "right",
            color=GRAY,
        )

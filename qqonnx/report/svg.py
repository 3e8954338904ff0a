"""SVG drawing: elements, scales, axes, marks, and labels that do not overlap.

The page's style sheet sets the colors by class, so one drawing serves the light and dark themes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FONT = 12.0
"""The font size in user units, as in the style sheet."""

TITLE = 26.0
"""The distance from the title of an axis down to the axis."""

_CHARACTER = 0.56 * FONT  # mean width of a character in common sans-serif fonts
_LINE = 1.2 * FONT


@dataclass(frozen=True)
class Scale:
    """A mapping from values to positions along an axis.

    Attributes:
        low: the value at `start`.
        high: the value at `end`.
        start: a position in user units.
        end: a position in user units.
        warp: an ascending function; positions are linear in its results.
    """

    low: float
    high: float
    start: float
    end: float
    warp: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        low, high = self.warp(self.low), self.warp(self.high)
        return self.start + (self.end - self.start) * (self.warp(value) - low) / (high - low)

    def ticks(self, count: int = 6) -> list[float]:
        """Return about `count` round values at equal distances."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]

    def ticks_among(self, candidates: Iterable[float], distance: float) -> list[float]:
        """Return the candidates on the scale, the first ones first, that keep their distance."""
        ticks: list[float] = []
        for value in candidates:
            if self.low <= value <= self.high and all(
                abs(self(value) - self(other)) >= distance for other in ticks
            ):
                ticks.append(value)
        return sorted(ticks)


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Return whether the two rectangles overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        """Return whether this rectangle lies inside the other."""
        return (
            self.left >= other.left
            and self.top >= other.top
            and self.right <= other.right
            and self.bottom <= other.bottom
        )


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element with escaped content.

    An attribute `a_b` is written as a-b, a trailing underscore is removed, and None is omitted.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_written(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{''.join(map(escape, children))}</{name}>")


def drawing(
    name: str, title: str, description: str, width: float, height: float, *parts: Markup
) -> Markup:
    """Return a complete drawing, which screen readers announce by title and description.

    Args:
        name: the id, unique in the page.
        title: the subject of the drawing.
        description: its content in words.
        width: the width in user units; the page scales the drawing.
        height: the height in user units.
        parts: the elements.
    """
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-d"),
        *parts,
        id=name,
        viewBox=f"0 0 {width:g} {height:g}",
        role="group",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-d",
    )


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    """Return text with its baseline at y; `anchor` is "start", "middle" or "end" at x."""
    anchor_ = None if anchor == "start" else anchor
    return element("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor_)


def path(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """Return straight lines through points."""
    steps = " ".join(f"{_written(x)} {_written(y)}" for x, y in points)
    return element("path", d=f"M{steps}", class_=class_)


def vertical_lines(positions: Iterable[float], top: float, bottom: float, class_: str) -> Markup:
    """Return vertical lines from `top` to `bottom` as one path."""
    steps = (f"M{_written(x)} {_written(top)}V{_written(bottom)}" for x in positions)
    return element("path", d="".join(steps), class_=class_)


def bars(edges: Sequence[float], tops: Sequence[float], bottom: float, class_: str) -> Markup:
    """Return adjacent bars as one path.

    Args:
        edges: the horizontal edges, one more than bars.
        tops: the upper end of each bar.
        bottom: the lower end of all bars.
        class_: the CSS class.
    """
    steps = [f"M{_written(edges[0])} {_written(bottom)}"]
    for end, top in zip(edges[1:], tops, strict=True):
        steps.append(f"V{_written(top)}H{_written(end)}")
    return element("path", d="".join(steps) + f"V{_written(bottom)}Z", class_=class_)


def mark(shape: str, x: float, y: float, size: float, class_: str, tooltip: str) -> Markup:
    """Return a mark of one of `SHAPES` with a tooltip."""
    title = element("title", tooltip)
    if shape == "circle":
        return element("circle", title, cx=x, cy=y, r=size, class_=class_)
    steps = " ".join(
        f"{_written(x + size * across)} {_written(y + size * down)}"
        for across, down in SHAPES[shape]
    )
    return element("path", title, d=f"M{steps}Z", class_=class_)


SHAPES = {
    "circle": (),
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "up": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
    "down": ((0, 1.2), (1.1, -0.9), (-1.1, -0.9)),
    "bar": ((-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)),
    "column": ((-0.5, -1.4), (0.5, -1.4), (0.5, 1.4), (-0.5, 1.4)),
}
"""The corners of each mark, in units of its size."""


def axes(
    area: Box,
    x: tuple[Scale, Sequence[float], str],
    y: tuple[Scale, Sequence[float], str],
) -> Markup:
    """Return grid lines, tick labels and titles of two axes: scale, ticks and title of each."""
    parts = horizontal_grid(area, *y)
    parts.append(path([(area.left, area.bottom), (area.right, area.bottom)], "axis"))
    scale, ticks, title = x
    for value in ticks:
        across = scale(value)
        parts += [
            path([(across, area.bottom), (across, area.bottom + 4)], "axis"),
            text(across, area.bottom + 17, number(value), "tick", "middle"),
        ]
    middle = (area.left + area.right) / 2
    parts.append(text(middle, area.bottom + 35, title, "title", "middle"))
    return element("g", *parts, aria_hidden="true")


def horizontal_grid(area: Box, scale: Scale, ticks: Sequence[float], title: str) -> list[Markup]:
    """Return horizontal grid lines with tick labels, and the title above them."""
    parts = [text(4, area.top - TITLE, title, "title")]
    for value in ticks:
        height = scale(value)
        parts += [
            path([(area.left, height), (area.right, height)], "grid"),
            text(area.left - 6, height + FONT / 3, number(value), "tick", "end"),
        ]
    return parts


def number(value: float) -> str:
    """Format a number with a real minus sign."""
    return f"{value:.4g}".replace("-", "−")


class Label(NamedTuple):
    """A label of a mark: the mark's position, the text, and candidate corners, best first.

    A corner is "above", "below" or "at", followed by "left" or "right".
    """

    x: float
    y: float
    content: str
    class_: str
    corners: tuple[str, ...]


def placed_labels(labels: Iterable[Label], area: Box, occupied: Iterable[Box]) -> Markup:
    """Return the labels that fit into `area` without overlapping occupied boxes or each other."""
    boxes, parts = list(occupied), []
    for label in labels:
        for corner in label.corners:
            level, side = corner.split()
            down = {"above": -9.0, "at": FONT / 3, "below": FONT + 3}[level]
            across = (4.0 if level != "at" else 9.0) * (1 if side == "right" else -1)
            x, y, width = label.x + across, label.y + down, _CHARACTER * len(label.content)
            left = x if side == "right" else x - width
            box = Box(left, y - 0.8 * FONT, left + width, y + 0.25 * FONT)
            if box.within(area) and not any(box.meets(other) for other in boxes):
                boxes.append(box)
                anchor = "start" if side == "right" else "end"
                parts.append(text(x, y, label.content, label.class_, anchor))
                break
    return element("g", *parts, aria_hidden="true")


def spread(heights: Sequence[float], low: float, high: float) -> list[float]:
    """Return ascending heights moved apart by a line of text, between `low` and `high`."""
    if not heights:
        return []
    gap = min(_LINE, (high - low) / max(len(heights) - 1, 1))
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap if placed else low))
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")

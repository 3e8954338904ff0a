"""Drawing: SVG elements, scales, axes, marks, and labels that do not cover each other.

Colors come from the page's style sheet, by class, so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FONT = 12.0
"""Height of text in a drawing's units, as in the style sheet."""

TITLE = 26.0
"""From the title of an axis down to the axis."""

_CHARACTER = 0.56 * FONT  # mean width of one, of common sans-serif faces
_LINE = 1.2 * FONT


@dataclass(frozen=True)
class Scale:
    """From values to places along an axis.

    Attributes:
        low: the value at `start`.
        high: the value at `end`.
        start: a place, in the drawing's units.
        end: another.
        warp: equal differences of it are equally far apart; it ascends.
    """

    low: float
    high: float
    start: float
    end: float
    warp: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        low, high = self.warp(self.low), self.warp(self.high)
        return self.start + (self.end - self.start) * (self.warp(value) - low) / (high - low)

    def ticks(self, count: int = 6) -> list[float]:
        """Return about `count` round values, evenly spaced."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]

    def ticks_among(self, values: Iterable[float], apart: float) -> list[float]:
        """Return those of some values, the first ones first, that are so far apart in place."""
        found: list[float] = []
        for value in values:
            if self.low <= value <= self.high and all(
                abs(self(value) - self(other)) >= apart for other in found
            ):
                found.append(value)
        return sorted(found)


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Return whether two rectangles overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        """Return whether this rectangle lies in another."""
        return (
            self.left >= other.left
            and self.top >= other.top
            and self.right <= other.right
            and self.bottom <= other.bottom
        )


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element; text and values are escaped, `a_b` is written a-b, None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_shown(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{''.join(map(escape, children))}</{name}>")


def drawing(
    name: str, title: str, description: str, width: float, height: float, *parts: Markup
) -> Markup:
    """Return a whole drawing that screen readers announce by its title and description.

    Args:
        name: unique in the page.
        title: what it shows.
        description: what is to be seen in it.
        width: in the drawing's units; the page scales it.
        height: in the same.
        parts: what is drawn.
    """
    head = element("title", title, id=f"{name}-title"), element("desc", description, id=f"{name}-d")
    return element(
        "svg",
        *head,
        *parts,
        id=name,
        viewBox=f"0 0 {width:g} {height:g}",
        role="group",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-d",
    )


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    """Return text whose base line starts, ends or is centered at a place."""
    anchor_ = None if anchor == "start" else anchor
    return element("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor_)


def path(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """Return straight lines through points."""
    steps = " ".join(f"{_shown(x)} {_shown(y)}" for x, y in points)
    return element("path", d=f"M{steps}", class_=class_)


def strokes(places: Iterable[float], top: float, bottom: float, class_: str) -> Markup:
    """Return upright lines from `top` to `bottom` as one shape."""
    steps = (f"M{_shown(place)} {_shown(top)}V{_shown(bottom)}" for place in places)
    return element("path", d="".join(steps), class_=class_)


def bars(edges: Sequence[float], tops: Sequence[float], bottom: float, class_: str) -> Markup:
    """Return bars that stand side by side as one shape.

    Args:
        edges: where they begin, and the end of the last.
        tops: where each ends above.
        bottom: where all end below.
        class_: of the style sheet.
    """
    steps = [f"M{_shown(edges[0])} {_shown(bottom)}"]
    for end, top in zip(edges[1:], tops, strict=True):
        steps.append(f"V{_shown(top)}H{_shown(end)}")
    return element("path", d="".join(steps) + f"V{_shown(bottom)}Z", class_=class_)


def mark(shape: str, x: float, y: float, size: float, class_: str, tip: str) -> Markup:
    """Return a mark of one of `SHAPES`, with what is told when it is pointed at."""
    steps = " ".join(
        f"{_shown(x + size * across)} {_shown(y + size * down)}" for across, down in SHAPES[shape]
    )
    if shape == "circle":
        return element("circle", element("title", tip), cx=x, cy=y, r=size, class_=class_)
    return element("path", element("title", tip), d=f"M{steps}Z", class_=class_)


SHAPES = {
    "circle": (),
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "up": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
    "down": ((0, 1.2), (1.1, -0.9), (-1.1, -0.9)),
    "bar": ((-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)),
    "column": ((-0.5, -1.4), (0.5, -1.4), (0.5, 1.4), (-0.5, 1.4)),
}
"""Marks by name: corners in units of their size."""


def axes(
    area: Box,
    x: tuple[Scale, Sequence[float], str],
    y: tuple[Scale, Sequence[float], str],
) -> Markup:
    """Return grid lines, numbers and titles of two axes: scale, ticks, title."""
    parts = level_grid(area, *y)
    parts.append(path([(area.left, area.bottom), (area.right, area.bottom)], "axis"))
    scale, ticks, title = x
    for value in ticks:
        at = scale(value)
        parts += [
            path([(at, area.bottom), (at, area.bottom + 4)], "axis"),
            text(at, area.bottom + 17, number(value), "tick", "middle"),
        ]
    middle = (area.left + area.right) / 2
    parts.append(text(middle, area.bottom + 35, title, "title", "middle"))
    return element("g", *parts, aria_hidden="true")


def level_grid(area: Box, scale: Scale, ticks: Sequence[float], title: str) -> list[Markup]:
    """Return level lines with numbers; the title stands above them."""
    parts = [text(4, area.top - TITLE, title, "title")]
    for value in ticks:
        at = scale(value)
        parts += [
            path([(area.left, at), (area.right, at)], "grid"),
            text(area.left - 6, at + FONT / 3, number(value), "tick", "end"),
        ]
    return parts


def number(value: float) -> str:
    """Write a number with a true minus sign."""
    return f"{value:.4g}".replace("-", "−")


class Label(NamedTuple):
    """Text for a mark: the mark's place, the text, and the corners to try, best first.

    Corners are "left" or "right", after "above", "below" or "at", as "above left".
    """

    x: float
    y: float
    content: str
    class_: str
    corners: tuple[str, ...]


def placed_labels(labels: Iterable[Label], area: Box, taken: Iterable[Box]) -> Markup:
    """Return those labels that fit in `area` without covering what is taken or one another."""
    boxes, parts = list(taken), []
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
    """Return ascending heights moved apart for lines of text, and kept from `low` to `high`."""
    if not heights:
        return []
    gap = min(_LINE, (high - low) / max(len(heights) - 1, 1))
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap if placed else low))
    limit = high
    for at in range(len(placed) - 1, -1, -1):
        placed[at] = min(placed[at], limit)
        limit = placed[at] - gap
    return placed


def _shown(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1f}".removesuffix(".0")

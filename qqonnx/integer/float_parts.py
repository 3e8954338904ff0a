"""Parts of a model that keep float activations, because rounding them costs too much.

The operators behind the last layers are one such part: a detector joins boxes in pixels and scores
below 1 in one tensor there, and one scale for both rounds the scores to nothing. Elsewhere a few
layers, often the first ones, can lose more than all others together.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from qqonnx.integer.layers import layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    Loss = Callable[[Sequence[str]], float]

PAYS = 0.5
"""A part stays in floats if the divergence of the outputs then falls to this share or less."""

MIN_DIVERGENCE = 0.01
"""No part is tried if the outputs lose less than this."""

PARTS = 8
"""Number of parts that are tried at once."""

_ROUNDS = 3


def tail_of(model: ir.Model) -> list[str]:
    """Return the names of the nodes behind the last layers: no layer depends on them."""
    own = set(layers(model))
    ahead: set[ir.Node] = set()
    tail = []
    for node in reversed(list(model.graph)):
        users = {user for value in node.outputs for user, _ in value.uses()}
        if users & (own | ahead):
            ahead.add(node)
        elif node not in own:
            tail.append(node.name or "")
    return tail[::-1]


def float_parts(model: ir.Model, loss: Loss, rounded: float) -> list[str]:
    """Return the names of the nodes that keep float activations, besides those of `tail_of`.

    The graph is cut into parts of about as many layers, in order. If one of them pays, its smallest
    half of a half that still pays as much is taken; then the parts are tried again.

    Args:
        model: the float model.
        loss: function from the names of such nodes to the divergence of the outputs.
        rounded: divergence without such nodes.
    """
    parts = _parts(_starts(model), PARTS)
    found: list[str] = []
    for _ in range(_ROUNDS):
        if rounded <= MIN_DIVERGENCE:
            break
        least, part = _best(parts, loss, found)
        if least > PAYS * rounded:
            break
        while len(part) > 1:
            less, half = _best(_parts(part, 2), loss, found)
            if less > PAYS * rounded:
                break
            least, part = less, half
        found += [name for names in part for name in names]
        rounded = least
    return found


def _starts(model: ir.Model) -> list[list[str]]:
    """Return the names of the nodes in order, cut before each layer."""
    own = set(layers(model))
    pieces: list[list[str]] = [[]]
    for node in model.graph:
        if node in own:
            pieces.append([])
        pieces[-1].append(node.name or "")
    return [piece for piece in pieces if piece]


def _parts(pieces: list[list[str]], count: int) -> list[list[list[str]]]:
    """Cut a list into at most `count` parts of about the same length."""
    ends = [round(number * len(pieces) / count) for number in range(count + 1)]
    return [pieces[begin:end] for begin, end in pairwise(ends) if end > begin]


def _best(
    parts: list[list[list[str]]], loss: Loss, found: list[str]
) -> tuple[float, list[list[str]]]:
    """Return the least loss with one of the parts in floats, and that part."""
    losses = [loss([*found, *(name for names in part for name in names)]) for part in parts]
    least = min(losses)
    return least, parts[losses.index(least)]

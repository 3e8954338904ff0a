"""Bit allocation: one choice a weight, of least loss within a number of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Allocation = dict[str, tuple[int, bool]]
"""For each weight by name: levels, and whether it has scales."""

CELLS = 1 << 16
"""The budget is counted in so many parts, each choice rounded up to whole ones."""


@dataclass(frozen=True)
class Choice:
    """One way to store a weight.

    Attributes:
        levels: number of levels.
        scaled: whether each output channel has a scale.
        nbytes: bytes of indices, codebook and scales.
        loss: what it is expected to cost.
    """

    levels: int
    scaled: bool
    nbytes: int
    loss: float


def allocate(choices: Sequence[Sequence[Choice]], budget: int) -> list[Choice]:
    """Return one choice a weight, of least total loss among those within `budget` bytes.

    A multiple-choice knapsack by dynamic programming over `CELLS` sizes: exact but for the
    rounding of sizes, which leaves at most one part in `CELLS` of the budget a weight unused.

    Source: Kellerer, Pferschy and Pisinger, *Knapsack Problems*, 2004, chapter 11.

    Raises:
        QqonnxError: even the smallest choices take more.
    """
    least = sum(min(choice.nbytes for choice in row) for row in choices)
    if least > budget:
        raise QqonnxError(
            f"the target is too small: the weights take at least {least:,} bytes, and the target "
            f"leaves {max(budget, 0):,} for them"
        )
    cell = max(budget // CELLS, 1)
    cells = budget // cell
    if sum(-(-min(c.nbytes for c in row) // cell) for row in choices) > cells:
        return [min(row, key=lambda choice: choice.nbytes) for row in choices]
    best = np.zeros(cells + 1)
    taken = []
    for row in choices:
        total = np.full(cells + 1, np.inf)
        which = np.zeros(cells + 1, np.uint8)
        for number, choice in enumerate(row):
            size = -(-choice.nbytes // cell)
            if size > cells:
                continue
            candidate = best[: cells + 1 - size] + choice.loss
            better = candidate < total[size:]
            total[size:][better] = candidate[better]
            which[size:][better] = number
        taken.append(which)
        best = total
    chosen: list[Choice] = []
    left = cells
    for row, which in zip(reversed(choices), reversed(taken), strict=True):
        choice = row[int(which[left])]
        chosen.append(choice)
        left -= -(-choice.nbytes // cell)
    return chosen[::-1]


def loss_curve(
    errors: Mapping[tuple[int, bool], float], measured: Mapping[tuple[int, bool], float]
) -> dict[tuple[int, bool], float]:
    """Return the loss of every choice, from a few that were measured.

    Between two measured choices the loss is a power of the error of the weights; beyond them it
    is in proportion to that error, or steeper above where the measured ones say so.

    Args:
        errors: error of the weight, by levels and whether scaled; positive or zero.
        measured: losses, by the same; at least one.
    """
    tiny = 1e-30
    points = sorted(
        (np.log(errors[key] + tiny), np.log(loss + tiny)) for key, loss in measured.items()
    )
    x = np.array([point[0] for point in points])
    y = np.maximum.accumulate([point[1] for point in points])
    slope = 1.0
    if len(x) > 1 and x[-1] > x[-2]:
        slope = float(np.clip((y[-1] - y[-2]) / (x[-1] - x[-2]), 1, 3))
    curve = {}
    for key, error in errors.items():
        at = np.log(error + tiny)
        if at < x[0]:
            value = y[0] + at - x[0]
        elif at > x[-1]:
            value = y[-1] + slope * (at - x[-1])
        else:
            value = float(np.interp(at, x, y))
        curve[key] = float(np.exp(value))
    return curve

"""Bit allocation: levels of each weight for the least total loss within a number of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qqonnx.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CELLS = 1 << 16
"""Number of cells in the budget; the bytes of a candidate are rounded up to whole cells."""


class LevelChoice(NamedTuple):
    """The number of levels of a weight, and whether it has scales.

    Attributes:
        levels: number of levels.
        scaled: whether each output channel has a scale.
        grid: largest absolute level if the levels are integers; None if they are floats.
    """

    levels: int
    scaled: bool
    grid: int | None = None


Allocation = dict[str, LevelChoice]
"""The choice for each weight, by the weight's name."""

if TYPE_CHECKING:
    Losses = Mapping[str, Mapping[LevelChoice, float]]


@dataclass(frozen=True)
class Candidate:
    """One way to store a weight.

    Attributes:
        choice: levels and scales.
        nbytes: bytes of indices, codebook, scales and decode nodes.
        loss: expected loss of the outputs.
    """

    choice: LevelChoice
    nbytes: int
    loss: float


def allocate(candidates: Sequence[Sequence[Candidate]], budget: int) -> list[Candidate]:
    """Return one candidate per weight, with the least total loss within `budget` bytes.

    This multiple-choice knapsack is solved by dynamic programming over `CELLS` cells. It is exact
    except for the rounding of sizes, which leaves at most one cell per weight unused.

    Source: Kellerer, Pferschy and Pisinger, *Knapsack Problems*, 2004, chapter 11.

    Args:
        candidates: the candidates of each weight.
        budget: largest number of bytes of all weights.

    Raises:
        OptionError: the smallest candidates exceed the budget.
    """
    smallest = sum(min(candidate.nbytes for candidate in row) for row in candidates)
    if smallest > budget:
        raise OptionError(
            "target",
            f"too small by about {smallest - budget:,} bytes: the weights take at least "
            f"{smallest:,}, and the target leaves {max(budget, 0):,} for them",
        )
    cell = max(budget // CELLS, 1)
    cells = budget // cell
    if sum(-(-min(c.nbytes for c in row) // cell) for row in candidates) > cells:
        return [min(row, key=lambda candidate: candidate.nbytes) for row in candidates]
    least_loss = np.zeros(cells + 1)
    numbers_by_row = []
    for row in candidates:
        total = np.full(cells + 1, np.inf)
        numbers = np.zeros(cells + 1, np.uint8)
        for number, candidate in enumerate(row):
            size = -(-candidate.nbytes // cell)
            if size > cells:
                continue
            loss = least_loss[: cells + 1 - size] + candidate.loss
            better = loss < total[size:]
            total[size:][better] = loss[better]
            numbers[size:][better] = number
        numbers_by_row.append(numbers)
        least_loss = total
    allocation: list[Candidate] = []
    for row, numbers in zip(reversed(candidates), reversed(numbers_by_row), strict=True):
        candidate = row[int(numbers[cells])]
        allocation.append(candidate)
        cells -= -(-candidate.nbytes // cell)
    return allocation[::-1]


def loss_curve(
    errors: Mapping[LevelChoice, float], losses: Mapping[LevelChoice, float]
) -> dict[LevelChoice, float]:
    """Return the loss of every choice, interpolated from the losses of a few.

    Between two measured choices, the loss is a power of the weight's error. Below them, it is
    proportional to the error. Above them, it is a power of the error with the exponent of the last
    two measured choices, limited to 1 to 3.

    Args:
        errors: error of the weight for every choice; not negative.
        losses: measured loss of the outputs for at least one choice.
    """
    tiny = 1e-30
    points = sorted(
        (np.log(errors[choice] + tiny), np.log(loss + tiny)) for choice, loss in losses.items()
    )
    x = np.array([point[0] for point in points])
    y = np.maximum.accumulate([point[1] for point in points])
    slope = 1.0
    if len(x) > 1 and x[-1] > x[-2]:
        slope = float(np.clip((y[-1] - y[-2]) / (x[-1] - x[-2]), 1, 3))
    curve = {}
    for choice, error in errors.items():
        log_error = np.log(error + tiny)
        if log_error < x[0]:
            value = y[0] + log_error - x[0]
        elif log_error > x[-1]:
            value = y[-1] + slope * (log_error - x[-1])
        else:
            value = float(np.interp(log_error, x, y))
        curve[choice] = float(np.exp(value))
    return curve

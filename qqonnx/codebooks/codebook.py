"""A codebook: the levels that indices stand for, and the thresholds that choose between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Weights = NDArray[Any]
"""An array of weights in a floating dtype: float16, bfloat16 (ml_dtypes), float32 or float64."""

MAX_LEVELS = 256


@dataclass(frozen=True)
class Codebook:
    """Levels and the thresholds between their bins.

    The index of a value v is the number of thresholds below v: a value equal to a threshold
    belongs to the bin below it.

    Attributes:
        levels: float64 [k], 1 <= k <= 256, one reconstruction level per bin; ascending.
        thresholds: float64 [k - 1], ascending. They are the midpoints between levels for
            nearest-level methods; other methods (quantile bins, piecewise regions) choose them.
    """

    levels: FloatArray
    thresholds: FloatArray


def between(below: FloatArray, above: FloatArray) -> FloatArray:
    """Return thresholds midway between `below` and `above` [k].

    `below <= threshold < above` holds even where the sum of two huge values overflows, or the
    midpoint of two adjacent floats rounds up.
    """
    with np.errstate(over="ignore"):
        gap = above - below
    middle = np.where(np.isfinite(gap), below + gap / 2, below / 2 + above / 2)
    return np.where(middle < above, middle, below)


def nearest(levels: FloatArray) -> Codebook:
    """Return the codebook that gives each value its nearest level; `levels` [k], ascending."""
    return Codebook(levels, between(levels[:-1], levels[1:]))


def without_equal_levels(levels: FloatArray, thresholds: FloatArray) -> Codebook:
    """Return a codebook in which runs of equal `levels` [k], ascending, are merged into one."""
    last_of_run = np.concatenate((levels[1:] > levels[:-1], [True]))
    return Codebook(levels[last_of_run], thresholds[last_of_run[:-1]])

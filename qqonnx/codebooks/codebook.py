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

    A value v is given the index `number of thresholds < v`: a value equal to a threshold
    belongs to the bin below it.

    Attributes:
        levels: float64 [k], 1 <= k <= 256, one reconstruction level a bin; ascending.
        thresholds: float64 [k - 1], ascending. Nearest-level methods have them at the midpoints;
            others (quantile bins, piecewise regions) where the method puts them.
    """

    levels: FloatArray
    thresholds: FloatArray


def between(below: FloatArray, above: FloatArray) -> FloatArray:
    """Return thresholds midway between `below` and `above` [k], always `below <= t < above`.

    Neither the sum of two huge values nor the midpoint of two adjacent floats may spoil that.
    """
    with np.errstate(over="ignore"):
        gap = above - below
    middle = np.where(np.isfinite(gap), below + gap / 2, below / 2 + above / 2)
    return np.where(middle < above, middle, below)


def nearest(levels: FloatArray) -> Codebook:
    """Return the codebook that gives each value its nearest level; `levels` ascending, [k]."""
    return Codebook(levels, between(levels[:-1], levels[1:]))

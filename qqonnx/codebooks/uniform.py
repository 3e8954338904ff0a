"""Uniform quantization: equally spaced levels from the least to the greatest value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.codebook import Codebook, FloatArray, nearest
from qqonnx.codebooks.method import Method

if TYPE_CHECKING:
    from qqonnx.codebooks.sample import Sample


def fit_uniform(sample: Sample, levels: int) -> Codebook:
    """Return `levels` equally spaced levels on [min, max], both ends included (affine min-max).

    A single level lies in the middle of the range. `importance` is ignored.
    """
    return nearest(uniform_levels(sample.low, sample.high, levels))


def uniform_levels(low: float, high: float, levels: int) -> FloatArray:
    """Return `levels` equally spaced levels on [low, high]; a single one in the middle."""
    if levels == 1:
        return np.array([low + (high - low) / 2])
    return np.linspace(low, high, levels)


METHODS = (Method("uq", "uniform: equally spaced levels on [min, max]", fit_uniform),)

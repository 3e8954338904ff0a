"""Quantization of one weight with the second moments of its inputs, if they are known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.gptq import gptq, weighted_kmeans
from qqonnx.calibration.shrinkage import shrunk_moment
from qqonnx.calibration.start import row_sizes, sampled_positions
from qqonnx.codebooks import approximate_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.calibration.allocation import LevelChoice
    from qqonnx.calibration.gptq import QuantizedMatrix
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.calibration.moments import Moments
    from qqonnx.calibration.shrinkage import Shrinkage

    Floats = NDArray[np.float32]

LEVEL_COUNTS = (2, 3, 4, 6, 8, 10, 16, 20, 22, 25, 32, 45, 64, 90, 128, 256)
"""Numbers of levels to choose from: the largest for a number of bits that packing supports.

Below 4 bits, those in three planes are left out: they lose no less at equal size, and take longer
to load.
"""

_FITTED_COUNTS = (2, 3, 4, 6, 8, 16, 64, 256)
"""Numbers of levels whose error is estimated; the others are interpolated."""

_FEW_LEVELS = 11
"""Up to this many levels, another round of fitted levels and scales pays."""

_ERROR_SAMPLE = 8192
"""Largest number of values from which the error of a weight is estimated."""


def rounds_for(levels: float) -> int:
    """Return the number of rounds of fitted levels and scales that pay."""
    return 2 if levels <= _FEW_LEVELS else 1


def quantize_matrix(
    matrix: Floats,
    choice: LevelChoice,
    moments: Moments | None,
    shrinkage: Shrinkage | None,
    *,
    rounds: int | None = None,
    frequencies: Floats | None = None,
    half: bool = False,
) -> QuantizedMatrix:
    """Quantize a weight: by GPTQ if second moments are known, otherwise by k-means.

    Args:
        matrix: the weight, float32 [groups, rows, columns].
        choice: levels and scales.
        moments: second moments of the inputs.
        shrinkage: their shrinkage.
        rounds: number of rounds of fitted levels and scales; by default that of `rounds_for`.
        frequencies: frequencies of the rows, see `WeightMatrix`.
        half: whether to use only the first half of the calibration samples: for the measurement of
            sensitivity.
    """
    rounds = rounds_for(choice.levels) if rounds is None else rounds
    moment = None
    if moments is not None and shrinkage is not None:
        moment = shrunk_moment(moments, matrix, shrinkage, half=half)
    if choice.grid is not None:
        return _on_grid(matrix, moment, choice.levels, choice.grid, rounds)
    if moment is None:
        importance = np.ones(matrix.shape[:2], np.float32)
        if frequencies is not None:
            importance = frequencies[None, 0 if half else 1]
        return weighted_kmeans(matrix, importance, choice.levels, scaled=choice.scaled)
    return gptq(matrix, moment, choice.levels, scaled=choice.scaled, rounds=rounds)


def _on_grid(
    matrix: Floats, moment: Floats | None, levels: int, grid: int, rounds: int
) -> QuantizedMatrix:
    """Quantize a weight to integer levels of at most `grid`."""
    if moment is None:
        moment = np.tile(np.eye(matrix.shape[2], dtype=np.float32), (len(matrix), 1, 1))
    # Scales of about 1 suit float16.
    largest = float(np.abs(matrix).max(initial=0)) / grid
    unit = np.float32(2.0 ** np.ceil(np.log2(largest))) if largest > 0 else np.float32(1)
    found = gptq(matrix / unit, moment, levels, scaled=True, rounds=rounds, grid=grid)
    return replace(found, levels=found.levels.astype(np.int8), scales=found.scales * unit)


def weight_errors(weight: WeightMatrix, moments: Moments | None) -> dict[LevelChoice, float]:
    """Estimate the relative error of a weight for every choice.

    Errors and values are weighted by the inputs' second moments, or by the rows' frequencies, so
    this is about the relative error of the operator's outputs. It is that of k-means on a sample
    of the values. Between the numbers of levels that are fitted, its logarithm is linear in theirs.
    A weight whose levels are fixed has one choice, whose error does not matter.

    Args:
        weight: the weight.
        moments: second moments of the inputs; None if they are not known.
    """
    if weight.fixed:
        return {weight.choice(weight.levels, scaled=weight.can_scale): 1.0}
    matrix = weight.values()
    importance = np.ones((len(matrix), matrix.shape[2]), np.float32)
    if moments is not None:
        importance = np.einsum("hgii->gi", moments.halves) / 2 + np.float32(1e-20)
    frequency = np.ones(matrix.shape[:2], np.float32)
    if weight.frequencies is not None:
        frequency = weight.frequencies[None, 1]
    group, row, column = sampled_positions(matrix, _ERROR_SAMPLE)
    errors: dict[LevelChoice, float] = {}
    kinds = (True, False) if weight.can_scale else (False,)
    for scaled in kinds if weight.grid is None else (True,):
        scales = np.ones(matrix.shape[:2], np.float32)
        if scaled:
            scales = np.maximum(row_sizes(matrix), np.float32(1e-12))
        scale = scales[group, row]
        shares = (matrix[group, row, column] / scale).astype(np.float64)
        mass = np.square(scale, dtype=np.float64) * importance[group, column].astype(np.float64)
        mass *= frequency[group, row]
        fitted = approximate_errors(shares, mass, _FITTED_COUNTS)
        logs = np.log(np.asarray(fitted) + 1e-30)
        between = np.interp(np.log(LEVEL_COUNTS), np.log(_FITTED_COUNTS), logs)
        size = max(float((np.square(shares) * mass).sum()), 1e-30)
        rounding = 0.0
        if weight.grid is not None:
            steps = np.abs(matrix).max(axis=2)[group, row] / (scale * weight.grid)
            rounding = float((np.square(steps) * mass).sum()) / 12
        for levels, log in zip(LEVEL_COUNTS, between, strict=True):
            error = (float(np.exp(log)) + rounding) / size
            errors.setdefault(weight.choice(levels, scaled=scaled), error)
    return errors

"""GPTQ with a codebook: choose levels, scales and indices of a matrix for given inputs.

With inputs x, their second moment H = E[x xT] and the error E of the weights, the squared error of
the outputs is tr(E H ET). GPTQ quantizes one column after the other: it rounds to the nearest
level, and compensates the error in the remaining columns (error feedback). Then some rounds fit
levels and scales by least squares, and choose every index again with the others fixed.

Sources: Frantar and others, *GPTQ*, 2023; order of the columns: Frantar and Alistarh, *Optimal
Brain Compression*, 2022; updates of the indices: greedy updates of Chee and others, *QuIP*, 2023.
These papers round to a uniform grid; this module uses a codebook.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import assign, fit, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Indices = NDArray[np.uint8]

BLOCK = 64
"""Columns per block. Errors are fed back column by column within a block, and then at once to all
later columns."""

ROUNDS = 2
"""Number of rounds that fit levels and scales."""

MIN_SCALE = 2.0**-14
"""Smallest normal float16."""

_GRADIENT_STEPS = 4


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [groups, rows, columns] as levels, scales and indices.

    Attributes:
        levels: float32 [k], ascending.
        scales: float32 [groups, rows], float16 values; ones if the rows have no scales.
        indices: uint8 [groups, rows, columns].
    """

    levels: Floats
    scales: Floats
    indices: Indices

    @property
    def decoded(self) -> Floats:
        """The decoded matrix, float32 [groups, rows, columns]."""
        return np.asarray(self.levels[self.indices] * self.scales[..., None])


def gptq(
    matrix: Floats, moment: Floats, levels: int, *, scaled: bool, rounds: int = ROUNDS
) -> QuantizedMatrix:
    """Quantize a matrix for inputs with second moments `moment`.

    Args:
        matrix: float32 [groups, rows, columns].
        moment: second moments, float32 [groups, columns, columns]; positive definite (see
            `qqonnx.calibration.shrinkage`).
        levels: largest number of levels.
        scaled: whether each row has a scale.
        rounds: number of rounds that fit levels and scales and update indices.
    """
    diagonal = np.einsum("gii->gi", moment)
    start = weighted_kmeans(matrix, diagonal, levels, scaled=scaled)
    codebook, scales = start.levels, start.scales
    if scaled:
        scales = _fitted_scales(matrix, moment * np.eye(matrix.shape[2], dtype=np.float32), start)
        codebook = _codebook(matrix, diagonal, scales, levels)
    result = QuantizedMatrix(codebook, scales, _gptq_indices(matrix, moment, codebook, scales))
    for _ in range(rounds):
        if scaled:
            result = replace(result, scales=_fitted_scales(matrix, moment, result))
        result = replace(result, levels=_fitted_levels(matrix, moment, result))
        result = replace(result, indices=_updated_indices(matrix, moment, result))
    return result


def weighted_kmeans(
    matrix: Floats, importance: Floats, levels: int, *, scaled: bool
) -> QuantizedMatrix:
    """Quantize a matrix by weighted k-means, without error feedback.

    Args:
        matrix: float32 [groups, rows, columns].
        importance: weight of the columns, float32 [groups, columns].
        levels: largest number of levels.
        scaled: whether each row has a scale.
    """
    scales = np.ones(matrix.shape[:2], np.float32)
    if scaled:
        scales = _as_float16(np.sqrt(np.square(matrix).mean(axis=2)))
    codebook = _codebook(matrix, importance, scales, levels)
    return QuantizedMatrix(codebook, scales, _nearest(matrix / scales[..., None], codebook))


def output_error(matrix: Floats, decoded: Floats, moment: Floats) -> float:
    """Return tr(E H ET), the mean squared error summed over all outputs."""
    error = matrix - decoded
    return float(np.einsum("gij,gij->", error @ moment, error, dtype=np.float64))


def _codebook(matrix: Floats, importance: Floats, scales: Floats, levels: int) -> Floats:
    weight = np.square(scales)[..., None] * importance[:, None, :]
    shares = matrix / scales[..., None]
    codebook = fit(
        shares.reshape(-1),
        "kmeans",
        levels,
        importance=np.broadcast_to(weight, matrix.shape).reshape(-1),
    )
    return codebook.levels.astype(np.float32)


def _as_float16(scales: Floats) -> Floats:
    return np.clip(scales, MIN_SCALE, 65504).astype(np.float16).astype(np.float32)


def _nearest(values: Floats, codebook: Floats) -> Indices:
    return np.asarray(assign(values, nearest(codebook.astype(np.float64))))


def _gptq_indices(matrix: Floats, moment: Floats, codebook: Floats, scales: Floats) -> Indices:
    """Return indices by error feedback, from the column with the largest moment to the smallest."""
    columns = matrix.shape[2]
    order = np.argsort(-np.einsum("gii->gi", moment), axis=1, kind="stable")
    groups = np.arange(len(matrix))[:, None, None]
    ordered = moment[groups, order[:, :, None], order[:, None, :]].astype(np.float64)
    lower = np.linalg.cholesky(np.linalg.inv(ordered)).astype(np.float32)
    spread = np.ascontiguousarray(lower.transpose(0, 2, 1))
    remaining = np.take_along_axis(matrix, order[:, None, :], 2)
    indices = np.empty(matrix.shape, np.uint8)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        errors = np.empty((*matrix.shape[:2], end - begin), np.float32)
        for column in range(begin, end):
            values = np.ascontiguousarray(remaining[:, :, column])
            column_indices = _nearest(values / scales, codebook)
            indices[:, :, column] = column_indices
            decoded = codebook[column_indices] * scales
            error = (values - decoded) / spread[:, column, column][:, None]
            errors[:, :, column - begin] = error
            rest = slice(column + 1, end)
            remaining[:, :, rest] -= error[:, :, None] * spread[:, None, column, rest]
        remaining[:, :, end:] -= errors @ spread[:, begin:end, end:]
    return np.asarray(np.take_along_axis(indices, np.argsort(order, axis=1)[:, None, :], 2))


def _updated_indices(matrix: Floats, moment: Floats, current: QuantizedMatrix) -> Indices:
    """Choose every index again, column by column, with the others fixed: the error never rises."""
    codebook, scales = current.levels, current.scales
    indices, decoded = current.indices.copy(), current.decoded
    slope = (matrix - decoded) @ moment
    diagonal = np.einsum("gii->gi", moment)
    columns = matrix.shape[2]
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        own = slope[:, :, begin:end].copy()
        steps = np.empty_like(own)
        for column in range(begin, end):
            best = decoded[:, :, column] + own[:, :, column - begin] / diagonal[:, None, column]
            column_indices = _nearest(best / scales, codebook)
            step = codebook[column_indices] * scales - decoded[:, :, column]
            indices[:, :, column] = column_indices
            steps[:, :, column - begin] = step
            own -= step[:, :, None] * moment[:, None, column, begin:end]
        slope -= steps @ moment[:, begin:end]
    return np.asarray(indices)


def _fitted_scales(matrix: Floats, moment: Floats, current: QuantizedMatrix) -> Floats:
    """Return the scales with the least error for the indices and levels.

    A scale stays as it is if the new one would not be positive.
    """
    levels = current.levels[current.indices]
    weighted = levels @ moment
    dot = np.einsum("gij,gij->gi", matrix, weighted)
    norm = np.einsum("gij,gij->gi", levels, weighted)
    fitted = np.divide(dot, norm, out=current.scales.copy(), where=(norm > 0) & (dot > 0))
    return _as_float16(fitted)


def _fitted_levels(matrix: Floats, moment: Floats, current: QuantizedMatrix) -> Floats:
    """Return levels with less error for the indices and scales, by conjugate gradients.

    The levels stay as they are if the new ones would not be ascending.
    """
    indices, scales = current.indices, current.scales[..., None]
    count = current.levels.size

    def summed(outputs: NDArray[Any]) -> NDArray[np.float64]:
        weights = (outputs * scales).reshape(-1).astype(np.float64)
        return np.asarray(np.bincount(indices.reshape(-1), weights, count))

    levels = current.levels.astype(np.float64)
    residual = summed((matrix - current.decoded) @ moment)
    direction, norm = residual.copy(), float(residual @ residual)
    smallest = norm * 1e-12
    for _ in range(_GRADIENT_STEPS):
        if norm <= smallest:
            break
        product = summed((direction.astype(np.float32)[indices] * scales) @ moment)
        curvature = float(direction @ product)
        if curvature <= 0:
            break
        levels += norm / curvature * direction
        residual -= norm / curvature * product
        previous, norm = norm, float(residual @ residual)
        direction = residual + norm / previous * direction
    fitted = levels.astype(np.float32)
    return fitted if (np.diff(fitted) > 0).all() else current.levels

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

from qqonnx.calibration.cholesky import cholesky
from qqonnx.calibration.start import (
    as_float16,
    best_start,
    float_codebook,
    integer_codebook,
    nearest_indices,
    row_sizes,
    start_codebook,
    thresholds,
)
from qqonnx.codebooks import assign, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Indices = NDArray[np.uint8]

BLOCK = 64
"""Columns per block. Errors are fed back column by column within a block, and then at once to all
later columns."""

_GRADIENT_STEPS = 4

_LEVEL_SAMPLE = 1 << 18
"""Least number of values to which levels are fitted, if the matrix has as many."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [groups, rows, columns] as levels, scales and indices.

    Attributes:
        levels: float32 [k], or int8, ascending.
        scales: float32 [groups, rows], float16 values (with integer levels, times a power of two);
            ones if the rows have no scales.
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
    matrix: Floats,
    moment: Floats,
    levels: int,
    *,
    scaled: bool,
    rounds: int = 2,
    grid: int | None = None,
) -> QuantizedMatrix:
    """Quantize a matrix for inputs with second moments `moment`.

    Args:
        matrix: float32 [groups, rows, columns].
        moment: second moments, float32 [groups, columns, columns]; positive definite (see
            `qqonnx.calibration.shrinkage`).
        levels: largest number of levels.
        scaled: whether each row has a scale.
        rounds: number of rounds that fit levels and scales and update indices.
        grid: largest absolute level of integer levels, which need scales and are not fitted; None
            for float levels.
    """
    diagonal = np.einsum("gii->gi", moment)
    scales = np.ones(matrix.shape[:2], np.float32)
    if scaled:
        scales = as_float16(row_sizes(matrix))
    codebook = start_codebook(matrix, diagonal, scales, levels)
    if scaled:
        start = QuantizedMatrix(codebook, scales, nearest_indices(matrix, codebook, scales))
        weighted = start.levels[start.indices] * diagonal[:, None]
        scales = _fitted_scales(matrix, weighted, start)
        codebook = start_codebook(matrix, diagonal, scales, levels)
    if grid is not None:
        codebook, scales = integer_codebook(matrix, diagonal, (codebook, scales), levels, grid)
    elif scaled:
        codebook, scales = best_start(matrix, diagonal, (codebook, scales), levels)
    result = QuantizedMatrix(codebook, scales, _gptq_indices(matrix, moment, codebook, scales))
    wanted = matrix @ moment
    for _ in range(rounds):
        weighted = result.levels[result.indices] @ moment
        if scaled:
            result = replace(result, scales=_fitted_scales(matrix, weighted, result))
        slope = wanted - weighted * result.scales[..., None]
        if grid is None:
            result, slope = _fitted_levels(moment, slope, result)
        result = replace(result, indices=_updated_indices(matrix, moment, slope, result))
    return result


def weighted_kmeans(
    matrix: Floats, importance: Floats, levels: int, *, scaled: bool
) -> QuantizedMatrix:
    """Quantize a matrix by weighted k-means, without error feedback.

    Scales are the least-squares fit to the first indices.

    Args:
        matrix: float32 [groups, rows, columns].
        importance: weight of the rows, float32 [groups, rows].
        levels: largest number of levels.
        scaled: whether each row has a scale.
    """
    scales = np.ones(matrix.shape[:2], np.float32)
    if scaled:
        scales = as_float16(row_sizes(matrix))
    root = np.sqrt(importance)
    ones = np.ones((len(matrix), matrix.shape[2]), np.float32)
    codebook = float_codebook(matrix * root[..., None], ones, scales * root, levels)
    result = QuantizedMatrix(codebook, scales, _nearest(matrix, codebook, scales))
    if not scaled:
        return result
    scales = _fitted_scales(matrix, codebook[result.indices], result)
    return QuantizedMatrix(codebook, scales, _nearest(matrix, codebook, scales))


def _nearest(matrix: Floats, codebook: Floats, scales: Floats) -> Indices:
    chosen = assign(matrix / scales[..., None], nearest(codebook.astype(np.float64)))
    return np.asarray(chosen)


def output_error(matrix: Floats, decoded: Floats, moment: Floats) -> float:
    """Return tr(E H ET), the mean squared error summed over all outputs."""
    error = matrix - decoded
    return float(np.einsum("gij,gij->", error @ moment, error, dtype=np.float64))


def _factor(moment: Floats, order: NDArray[np.integer[Any]]) -> Floats:
    """Return the unit upper triangular U of H = U D UT, float32 [groups, columns, columns].

    `order` is the order of the columns, [groups, columns].
    """
    groups, backwards = np.arange(len(moment))[:, None, None], order[:, ::-1]

    def flipped() -> Floats:
        return np.asarray(moment[groups, backwards[:, :, None], backwards[:, None, :]])

    try:
        lower = cholesky(flipped())
    except np.linalg.LinAlgError:
        lower = np.linalg.cholesky(flipped())
    lower /= np.einsum("gii->gi", lower).copy()[:, None, :]
    return np.asarray(lower[:, ::-1, ::-1])


def _gptq_indices(matrix: Floats, moment: Floats, codebook: Floats, scales: Floats) -> Indices:
    """Return indices by error feedback, from the column with the largest moment to the smallest.

    With H = U D UT, column k of the weights is rounded after adding the sum over earlier columns j
    of their error times U_jk. That equals the updates of GPTQ, and takes one factorization (QuIP,
    section 4.2).
    """
    columns = matrix.shape[2]
    order = np.argsort(-np.einsum("gii->gi", moment), axis=1, kind="stable")
    factor = _factor(moment, order)
    # Columns of the weights are contiguous here.
    wanted = np.take_along_axis(matrix.transpose(0, 2, 1), order[:, :, None], 1)
    midpoints = thresholds(codebook)
    errors = np.empty_like(wanted)
    indices = np.empty(wanted.shape, np.uint8)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        upper = np.ascontiguousarray(factor[:, :end, begin:end].transpose(0, 2, 1))
        fed_back = upper[:, :, :begin] @ errors[:, :begin]
        for column in range(begin, end):
            within = upper[:, column - begin, None, begin:column] @ errors[:, begin:column]
            exact = wanted[:, column]
            values = exact + fed_back[:, column - begin] + within[:, 0]
            chosen = np.searchsorted(midpoints, values / scales)
            indices[:, column] = chosen
            errors[:, column] = exact - codebook[chosen] * scales
    restored = np.take_along_axis(indices, np.argsort(order, axis=1)[:, :, None], 1)
    return np.ascontiguousarray(restored.transpose(0, 2, 1))


def _updated_indices(
    matrix: Floats, moment: Floats, slope: Floats, current: QuantizedMatrix
) -> Indices:
    """Choose every index again, column by column, with the others fixed: the error never rises.

    `slope` is the error of the weights times the moment, [groups, rows, columns].
    """
    codebook, scales = current.levels, current.scales
    midpoints = thresholds(codebook)
    decoded = np.ascontiguousarray(current.decoded.transpose(0, 2, 1))
    slope = np.ascontiguousarray(slope.transpose(0, 2, 1))
    diagonal = np.einsum("gii->gi", moment)
    columns = matrix.shape[2]
    indices = np.empty(decoded.shape, np.uint8)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        own = np.ascontiguousarray(moment[:, begin:end, begin:end])
        steps = np.empty_like(decoded[:, begin:end])
        for column in range(begin, end):
            number = column - begin
            moved = own[:, number, None, :number] @ steps[:, :number]
            left = slope[:, column] - moved[:, 0]
            best = decoded[:, column] + left / diagonal[:, None, column]
            chosen = np.searchsorted(midpoints, best / scales)
            indices[:, column] = chosen
            steps[:, number] = codebook[chosen] * scales - decoded[:, column]
        slope[:, end:] -= moment[:, end:, begin:end] @ steps
    return np.ascontiguousarray(indices.transpose(0, 2, 1))


def _fitted_scales(matrix: Floats, weighted: Floats, current: QuantizedMatrix) -> Floats:
    """Return the scales with the least error for the indices and levels.

    `weighted` is the matrix of levels times the moment, [groups, rows, columns]. A scale stays as
    it is if the new one would not be positive, or the sums overflow.
    """
    dot = np.einsum("gij,gij->gi", matrix, weighted)
    norm = np.einsum("gij,gij->gi", current.levels[current.indices], weighted)
    usable = (norm > 0) & (dot > 0) & np.isfinite(norm) & np.isfinite(dot)
    fitted = np.divide(dot, norm, out=current.scales.copy(), where=usable)
    return as_float16(fitted)


def _fitted_levels(
    moment: Floats, slope: Floats, current: QuantizedMatrix
) -> tuple[QuantizedMatrix, Floats]:
    """Return levels with less error for the indices and scales, by conjugate gradients.

    Some of the rows stand for all. The levels stay as they are if the new ones would not be
    ascending. The second result is the slope (see `_updated_indices`) with the levels.
    """
    every = max(current.indices.size // _LEVEL_SAMPLE, 1)
    indices, scales = current.indices[:, ::every], current.scales[:, ::every, None]
    count = current.levels.size

    def summed(outputs: NDArray[Any]) -> NDArray[np.float64]:
        weights = (outputs * scales).reshape(-1)
        return np.asarray(np.bincount(indices.reshape(-1), weights, count))

    levels = current.levels.astype(np.float64)
    residual = summed(slope[:, ::every])
    direction, norm = residual.copy(), float(residual @ residual)
    smallest = norm * 1e-12
    for _ in range(_GRADIENT_STEPS):
        if norm <= smallest:
            break
        product = summed((direction.astype(np.float32)[indices] * scales) @ moment)
        curvature = float(direction @ product)
        if curvature <= 0:
            break
        step = norm / curvature
        levels += step * direction
        residual -= step * product
        previous, norm = norm, float(residual @ residual)
        direction = residual + norm / previous * direction
    fitted = levels.astype(np.float32)
    if not (np.diff(fitted) > 0).all():
        return current, slope
    change = (fitted - current.levels)[current.indices] * current.scales[..., None]
    return replace(current, levels=fitted), np.asarray(slope - change @ moment, np.float32)

"""Error feedback: levels, scales and indices of a matrix, chosen for what it multiplies.

With x the patches that a layer sees, H = E[x xT] and E the error of the weights, the squared
error of the layer's outputs is tr(E H ET). Column by column, GPTQ rounds to the nearest level and
makes up for the error in the columns that are still free; then every index is chosen again, the
others fixed, and levels and scales are fitted by least squares, until the rounds are over.

Source: Frantar and others, *GPTQ*, 2023 (the order of columns: Frantar and Alistarh, *Optimal
Brain Compression*, 2022); second pass as the greedy updates of Chee and others, *QuIP*, 2023.
All here with a codebook instead of a uniform grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import assign, fit, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Indices = NDArray[np.uint8]

BLOCK = 64
"""Columns whose errors reach each other at once; those of a block reach the rest together."""

ROUNDS = 2
LEAST_SCALE = 2.0**-14
"""Smallest normal float16."""

_GRADIENT_STEPS = 4


@dataclass(frozen=True)
class Quantized:
    """A matrix [groups, rows, columns] as levels, scales and indices.

    Attributes:
        levels: float32 [k], ascending.
        scales: float32 [groups, rows], exact in float16; ones where the rows have no scales.
        indices: uint8 [groups, rows, columns].
    """

    levels: Floats
    scales: Floats
    indices: Indices

    @property
    def decoded(self) -> Floats:
        """The matrix."""
        return np.asarray(self.levels[self.indices] * self.scales[..., None])


def error_feedback(
    matrix: Floats, moment: Floats, levels: int, *, scaled: bool, rounds: int = ROUNDS
) -> Quantized:
    """Quantize a matrix for inputs of second moment `moment`.

    Args:
        matrix: float32 [groups, rows, columns].
        moment: float32 [groups, columns, columns], positive definite (see `shrunk`).
        levels: greatest number of levels.
        scaled: whether each row has a scale.
        rounds: of choosing indices again and fitting levels and scales.
    """
    diagonal = np.einsum("gii->gi", moment)
    start = by_importance(matrix, diagonal, levels, scaled=scaled)
    codebook, scales = start.levels, start.scales
    if scaled:
        scales = _fitted_scales(matrix, moment * np.eye(matrix.shape[2], dtype=np.float32), start)
        codebook = _codebook(matrix, diagonal, scales, levels)
    result = Quantized(codebook, scales, _fed_back(matrix, moment, codebook, scales))
    for _ in range(rounds):
        if scaled:
            result = _with_scales(result, _fitted_scales(matrix, moment, result))
        result = Quantized(_fitted_levels(matrix, moment, result), result.scales, result.indices)
        indices = _chosen_again(matrix, moment, result)
        result = Quantized(result.levels, result.scales, indices)
    return result


def by_importance(matrix: Floats, importance: Floats, levels: int, *, scaled: bool) -> Quantized:
    """Quantize by k-means weighted with `importance` [groups, columns], without feedback."""
    scales = np.ones(matrix.shape[:2], np.float32)
    if scaled:
        scales = _storable(np.sqrt(np.square(matrix).mean(axis=2)))
    codebook = _codebook(matrix, importance, scales, levels)
    return Quantized(codebook, scales, _nearest(matrix / scales[..., None], codebook))


def output_error(matrix: Floats, decoded: Floats, moment: Floats) -> float:
    """Return tr(E H ET): the mean squared error of the outputs, summed over them."""
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


def _storable(scales: Floats) -> Floats:
    return np.clip(scales, LEAST_SCALE, 65504).astype(np.float16).astype(np.float32)


def _nearest(values: Floats, codebook: Floats) -> Indices:
    return np.asarray(assign(values, nearest(codebook.astype(np.float64))))


def _fed_back(matrix: Floats, moment: Floats, codebook: Floats, scales: Floats) -> Indices:
    """Round column by column, the most active first, and pass each error on."""
    columns = matrix.shape[2]
    order = np.argsort(-np.einsum("gii->gi", moment), axis=1, kind="stable")
    groups = np.arange(len(matrix))[:, None, None]
    ordered = moment[groups, order[:, :, None], order[:, None, :]].astype(np.float64)
    lower = np.linalg.cholesky(np.linalg.inv(ordered)).astype(np.float32)
    spread = np.ascontiguousarray(lower.transpose(0, 2, 1))
    left = np.take_along_axis(matrix, order[:, None, :], 2)
    indices = np.empty(matrix.shape, np.uint8)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        errors = np.empty((*matrix.shape[:2], end - begin), np.float32)
        for column in range(begin, end):
            values = np.ascontiguousarray(left[:, :, column])
            chosen = _nearest(values / scales, codebook)
            indices[:, :, column] = chosen
            error = (values - codebook[chosen] * scales) / spread[:, column, column][:, None]
            errors[:, :, column - begin] = error
            rest = slice(column + 1, end)
            left[:, :, rest] -= error[:, :, None] * spread[:, None, column, rest]
        left[:, :, end:] -= errors @ spread[:, begin:end, end:]
    return np.asarray(np.take_along_axis(indices, np.argsort(order, axis=1)[:, None, :], 2))


def _chosen_again(matrix: Floats, moment: Floats, current: Quantized) -> Indices:
    """Choose every index again, column by column, all others fixed: the error never rises."""
    codebook, scales = current.levels, current.scales
    indices, decoded = current.indices.copy(), current.decoded
    slope = (matrix - decoded) @ moment
    diagonal = np.einsum("gii->gi", moment)
    columns = matrix.shape[2]
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        own = slope[:, :, begin:end].copy()
        moved = np.empty_like(own)
        for column in range(begin, end):
            best = decoded[:, :, column] + own[:, :, column - begin] / diagonal[:, None, column]
            chosen = _nearest(best / scales, codebook)
            step = codebook[chosen] * scales - decoded[:, :, column]
            indices[:, :, column] = chosen
            moved[:, :, column - begin] = step
            own -= step[:, :, None] * moment[:, None, column, begin:end]
        slope -= moved @ moment[:, begin:end]
    return np.asarray(indices)


def _fitted_scales(matrix: Floats, moment: Floats, current: Quantized) -> Floats:
    """Return the scales of least error for the indices and levels, where these are positive."""
    levels = current.levels[current.indices]
    seen = levels @ moment
    along = np.einsum("gij,gij->gi", matrix, seen)
    length = np.einsum("gij,gij->gi", levels, seen)
    fitted = np.divide(along, length, out=current.scales.copy(), where=(length > 0) & (along > 0))
    return _storable(fitted)


def _with_scales(current: Quantized, scales: Floats) -> Quantized:
    return Quantized(current.levels, scales, current.indices)


def _fitted_levels(matrix: Floats, moment: Floats, current: Quantized) -> Floats:
    """Return levels of less error for the indices and scales: steps of conjugate gradients.

    Where they would not be in order any more, the levels stay.
    """
    indices, scales = current.indices, current.scales[..., None]
    count = current.levels.size

    def gathered(outputs: NDArray[Any]) -> NDArray[np.float64]:
        weights = (outputs * scales).reshape(-1).astype(np.float64)
        return np.asarray(np.bincount(indices.reshape(-1), weights, count))

    levels = current.levels.astype(np.float64)
    residual = gathered((matrix - current.decoded) @ moment)
    direction, norm = residual.copy(), float(residual @ residual)
    smallest = norm * 1e-12
    for _ in range(_GRADIENT_STEPS):
        if norm <= smallest:
            break
        bent = gathered((direction.astype(np.float32)[indices] * scales) @ moment)
        curvature = float(direction @ bent)
        if curvature <= 0:
            break
        levels += norm / curvature * direction
        residual -= norm / curvature * bent
        previous, norm = norm, float(residual @ residual)
        direction = residual + norm / previous * direction
    fitted = levels.astype(np.float32)
    return fitted if (np.diff(fitted) > 0).all() else current.levels

"""Codebooks and scales that GPTQ starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks import approximate_levels, fit, on_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MIN_SCALE = 2.0**-14
"""Smallest normal float16."""

_FEW = 8
"""Up to this many values per level, the first levels are those of k-means."""

_START_SAMPLE = 1 << 15
"""Largest number of values to which the first levels are fitted."""


def row_sizes(matrix: Floats) -> Floats:
    """Return the root of the mean square of each row, float32 [groups, rows]."""
    squares = np.einsum("gij,gij->gi", matrix, matrix, dtype=np.float64)
    return np.asarray(np.sqrt(squares / matrix.shape[2]), np.float32)


def sampled_positions(matrix: Floats, most: int) -> tuple[NDArray[np.intp], ...]:
    """Return group, row and column of at most `most` values, always the same ones."""
    chosen = np.arange(matrix.size)
    if matrix.size > most:
        chosen = np.random.default_rng(0).choice(matrix.size, most, replace=False)
    return np.unravel_index(chosen, matrix.shape)


def start_codebook(matrix: Floats, importance: Floats, scales: Floats, levels: int) -> Floats:
    """Return levels near those of `float_codebook`, from a sample of the values."""
    if matrix.size <= _FEW * levels:
        return float_codebook(matrix, importance, scales, levels)
    group, row, column = sampled_positions(matrix, _START_SAMPLE)
    scale = scales[group, row].astype(np.float64)
    mass = (np.square(scale) * importance[group, column]).astype(np.float64)
    shares = matrix[group, row, column].astype(np.float64) / scale
    found = approximate_levels(shares, mass, levels)
    # Levels that are equal as floats would leave the order of the thresholds open.
    return np.unique(found.astype(np.float32))


def float_codebook(matrix: Floats, importance: Floats, scales: Floats, levels: int) -> Floats:
    """Return levels by k-means for a matrix whose rows have scales: float32 [levels or fewer].

    Args:
        matrix: float32 [groups, rows, columns].
        importance: weight of the columns, float32 [groups, columns].
        scales: float32 [groups, rows].
        levels: largest number of levels.
    """
    weight = np.square(scales)[..., None] * importance[:, None, :]
    shares = matrix / scales[..., None]
    codebook = fit(
        shares.reshape(-1),
        "kmeans",
        levels,
        importance=np.broadcast_to(weight, matrix.shape).reshape(-1),
    )
    return codebook.levels.astype(np.float32)


def best_start(
    matrix: Floats, importance: Floats, fitted: tuple[Floats, Floats], levels: int
) -> tuple[Floats, Floats]:
    """Return the levels and scales that round a matrix with less error.

    Compared are the fitted ones, whose scales follow the spread of a row, and levels for scales
    that follow its largest value, on a sample of the values.
    """
    largest = np.abs(matrix).max(axis=2)
    whole = as_float16(np.where(largest > 0, largest, 1).astype(np.float32))
    candidates = [fitted, (start_codebook(matrix, importance, whole, levels), whole)]
    group, row, column = sampled_positions(matrix, _START_SAMPLE)
    values, mass = matrix[group, row, column], importance[group, column]

    def error(candidate: tuple[Floats, Floats]) -> float:
        codebook, scales = candidate
        scale = scales[group, row]
        nearest = codebook[np.searchsorted(thresholds(codebook), values / scale)] * scale
        return float((np.square(values - nearest) * mass).sum(dtype=np.float64))

    return min(candidates, key=error)


def integer_codebook(
    matrix: Floats, importance: Floats, fitted: tuple[Floats, Floats], levels: int, grid: int
) -> tuple[Floats, Floats]:
    """Return the integer levels and the scales that round a matrix with the least error.

    Compared are the fitted levels with their scales, k-means for scales that fit the largest value
    of each row, and evenly spaced levels for these scales. Few levels want scales that follow the
    spread of a row; many want all of the grid for its largest value.
    """
    largest = np.abs(matrix).max(axis=2)
    whole = np.where(largest > 0, largest, 1).astype(np.float32)
    half = min((levels - 1) // 2, grid)
    candidates = [fitted, (float_codebook(matrix, importance, whole, levels), whole)]
    integers = [
        (snapped.astype(np.float32), as_float16(scales * np.float32(step)))
        for codebook, scales in candidates
        for snapped, step in (on_grid(codebook.astype(np.float64), grid),)
    ]
    if half:
        even = np.arange(-half, half + 1, dtype=np.float32)
        integers.append((even, as_float16(whole / np.float32(half))))

    def error(candidate: tuple[Floats, Floats]) -> float:
        codebook, scales = candidate
        indices = nearest_indices(matrix, codebook, scales)
        squared = np.square(matrix - codebook[indices] * scales[..., None])
        return float(np.einsum("gij,gj->", squared, importance, dtype=np.float64))

    return min(integers, key=error)


def as_float16(scales: Floats) -> Floats:
    """Round scales to normal float16 numbers."""
    return np.clip(scales, MIN_SCALE, 65504).astype(np.float16).astype(np.float32)


def nearest_indices(matrix: Floats, codebook: Floats, scales: Floats) -> NDArray[np.uint8]:
    """Return the index of the nearest level of each value, uint8 [groups, rows, columns]."""
    chosen = np.searchsorted(thresholds(codebook), matrix / scales[..., None])
    return chosen.astype(np.uint8)


def thresholds(codebook: Floats) -> Floats:
    """Return the midpoints between neighboring levels."""
    return np.asarray((codebook[1:] + codebook[:-1]) / 2)

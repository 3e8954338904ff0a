"""Codebooks and scales that GPTQ starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks import fit, on_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MIN_SCALE = 2.0**-14
"""Smallest normal float16."""


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
        indices = np.searchsorted(thresholds(codebook), matrix / scales[..., None])
        squared = np.square(matrix - codebook[indices] * scales[..., None])
        return float(np.einsum("gij,gj->", squared, importance, dtype=np.float64))

    return min(integers, key=error)


def as_float16(scales: Floats) -> Floats:
    """Round scales to normal float16 numbers."""
    return np.clip(scales, MIN_SCALE, 65504).astype(np.float16).astype(np.float32)


def thresholds(codebook: Floats) -> Floats:
    """Return the midpoints between neighboring levels."""
    return np.asarray((codebook[1:] + codebook[:-1]) / 2)

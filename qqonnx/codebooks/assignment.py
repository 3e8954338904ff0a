"""Indices of values in a codebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.keys import (
    KEYS,
    is_key,
    key_order,
    keys_of,
    ranks_of,
    slices,
    values_of_ranks,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.codebooks.codebook import Codebook, FloatArray, Weights

_TABLE_PAYS_FROM = 1 << 14
"""From this many values, building a table of 65,536 entries is faster than searching each one."""


def assign(values: Weights, codebook: Codebook) -> NDArray[np.uint8]:
    """Return the index of each value: the number of thresholds below it.

    The result is the same as comparing in float64, for every dtype.

    Args:
        values: any shape, any floating dtype; finite.
        codebook: levels and thresholds.

    Returns:
        uint8, the shape of `values`.
    """
    flat = np.ascontiguousarray(values.reshape(-1), dtype=values.dtype.newbyteorder("="))
    # A threshold of -0.0 would rank below the value 0.0, which it equals.
    thresholds = codebook.thresholds + 0.0
    if flat.size < _TABLE_PAYS_FROM:
        indices = _search(thresholds, flat)
    elif is_key(flat.dtype):
        indices = _look_up(flat, key_order(_search(thresholds, values_of_ranks(flat.dtype))))
    else:
        indices = _look_up_and_search(flat, thresholds)
    return indices.reshape(values.shape)


def _search(thresholds: FloatArray, values: Weights) -> NDArray[np.uint8]:
    exact = values.astype(np.float64, copy=False)
    return np.searchsorted(thresholds, exact, side="left").astype(np.uint8)


def _look_up(values: Weights, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    indices = np.empty(values.size, np.uint8)
    for part in slices(values.size):
        np.take(table, keys_of(values[part]), out=indices[part], mode="clip")
    return indices


def _look_up_and_search(values: Weights, thresholds: FloatArray) -> NDArray[np.uint8]:
    # Values that share the key of a threshold are compared with the thresholds. For all others
    # the key alone determines the index.
    counts = np.bincount(ranks_of(thresholds), minlength=KEYS)
    table = key_order((np.cumsum(counts) - counts).astype(np.uint8))
    shared = key_order(counts > 0)
    indices = np.empty(values.size, np.uint8)
    for part in slices(values.size):
        chunk, chunk_indices = values[part], indices[part]
        keys = keys_of(chunk)
        np.take(table, keys, out=chunk_indices, mode="clip")
        undecided = np.flatnonzero(np.take(shared, keys, mode="clip"))
        chunk_indices[undecided] = _search(thresholds, chunk[undecided])
    return indices

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
"""Values from which building a table of 65,536 entries costs less than searching each value."""


def assign(values: Weights, codebook: Codebook) -> NDArray[np.uint8]:
    """Return the index of each value: the number of thresholds below it.

    Exact for every dtype: the same as comparing in float64.

    Args:
        values: any shape, a floating dtype; finite.
        codebook: levels and thresholds.

    Returns:
        uint8, the shape of `values`.
    """
    flat = np.ascontiguousarray(values.reshape(-1), dtype=values.dtype.newbyteorder("="))
    # -0.0 as a threshold would rank below values of 0.0 that it equals.
    thresholds = codebook.thresholds + 0.0
    if flat.size < _TABLE_PAYS_FROM:
        indices = _search(thresholds, flat)
    elif is_key(flat.dtype):
        indices = _look_up(flat, key_order(_search(thresholds, values_of_ranks(flat.dtype))))
    else:
        indices = _look_up_and_search(flat, thresholds)
    return indices.reshape(values.shape)


def _search(thresholds: FloatArray, values: Weights) -> NDArray[np.uint8]:
    found = np.searchsorted(thresholds, values.astype(np.float64, copy=False), side="left")
    return found.astype(np.uint8)


def _look_up(values: Weights, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    indices = np.empty(values.size, np.uint8)
    for part in slices(values.size):
        np.take(table, keys_of(values[part]), out=indices[part], mode="clip")
    return indices


def _look_up_and_search(values: Weights, thresholds: FloatArray) -> NDArray[np.uint8]:
    # A key whose rank differs from that of every threshold settles the index by itself;
    # values that share a threshold's key are compared with the thresholds.
    held = np.bincount(ranks_of(thresholds), minlength=KEYS)
    table = key_order((np.cumsum(held) - held).astype(np.uint8))
    shared = key_order(held > 0)
    indices = np.empty(values.size, np.uint8)
    for part in slices(values.size):
        chunk, chunk_indices = values[part], indices[part]
        keys = keys_of(chunk)
        np.take(table, keys, out=chunk_indices, mode="clip")
        unsettled = np.flatnonzero(np.take(shared, keys, mode="clip"))
        chunk_indices[unsettled] = _search(thresholds, chunk[unsettled])
    return indices

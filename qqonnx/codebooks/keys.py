"""Sixteen-bit keys of floating-point values: small tables replace sorting and searching.

The key of a value is the upper half of its float32 bit pattern, or the whole pattern of a 16-bit
float. Patterns are in sign-and-magnitude order; the *rank* of a key is its place in ascending
order, so that a greater value never has a smaller rank. Values with the same key differ by less
than one part in 128.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from qqonnx.codebooks.codebook import FloatArray, Weights

KEYS = 1 << 16
SIGN = 1 << 15
CHUNK = 1 << 16
"""Values processed at once: few enough that temporary arrays stay in the processor's cache."""

_UPPER_HALF = 1 if sys.byteorder == "little" else 0
_Scalar = TypeVar("_Scalar", bound=np.generic)


def slices(length: int) -> Iterator[slice]:
    """Yield the slices that cut `length` values into chunks."""
    for start in range(0, length, CHUNK):
        yield slice(start, min(start + CHUNK, length))


def is_key(dtype: np.dtype[Any]) -> bool:
    """Return whether the key is the whole value: true for 16-bit floats."""
    return dtype.itemsize == 2


def keys_of(values: Weights) -> NDArray[np.uint16]:
    """Return the keys of contiguous `values` [n] in native byte order."""
    if is_key(values.dtype):
        return values.view(np.uint16)
    # Rounding float64 to float32 keeps the order, even where it overflows to infinity.
    with np.errstate(over="ignore"):
        single = values.astype(np.float32, copy=False)
    return single.view(np.uint16)[_UPPER_HALF::2]


def ranks_of(values: Weights) -> NDArray[np.intp]:
    """Return the ranks of the keys of `values` [n]: 0..65535, ascending with the value."""
    keys = keys_of(values).astype(np.intp)
    return np.where(keys < SIGN, keys + SIGN, KEYS - 1 - keys)


def rank_order(table: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return a table [65536] indexed by key, reordered to be indexed by rank."""
    return np.concatenate((table[SIGN:][::-1], table[:SIGN]))


def key_order(table: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return a table [65536] indexed by rank, reordered to be indexed by key."""
    return np.concatenate((table[SIGN:], table[:SIGN][::-1]))


def values_of_ranks(dtype: np.dtype[Any]) -> FloatArray:
    """Return the value of each rank [65536] of a 16-bit float `dtype`, NaN patterns included."""
    patterns = np.arange(KEYS, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        return rank_order(patterns.view(dtype).astype(np.float64))

"""Pack indices into bytes and unpack them, for 1 to 256 levels.

A *code* contains a *group* of weights: it is the number whose base-k digits are the indices of the
group, first weight first. A code of at most 8 bits fills one byte. A longer code has its low 8 bits
in a byte plane, and the others in planes of 4, 2 or 1 bits, where several codes share a byte. For
example, at 3 bits per weight a code of four weights has 12 bits: a byte and half of another.

`qqonnx.encoding.decode` writes the same integer arithmetic as ONNX operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

MAX_CODE_BITS = 14
"""Longest code: a table of 2^14 rows is still small compared with the weights that it decodes."""

PLANE_COST = 0.03
"""Share of the size that a plane must save: each plane takes time when the model loads."""

Indices = NDArray[np.uint8]
Plane = NDArray[np.uint8]


@dataclass(frozen=True)
class Storage:
    """The layout in bytes of the indices of one weight.

    Attributes:
        levels: number of levels k.
        group: number of weights per code.
        plane_bits: bits of a code in each plane, low bits first: 8, followed by any of 4, 2, 1 in
            descending order.
    """

    levels: int
    group: int
    plane_bits: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of different codes: the rows of a table that codes index."""
        return int(self.levels**self.group)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, without the padding at the end of the tensor."""
        return sum(self.plane_bits) / self.group

    @property
    def block(self) -> int:
        """Number of codes that fill whole bytes in every plane."""
        return max(8 // bits for bits in self.plane_bits)

    def code_count(self, size: int) -> int:
        """Return the number of codes of `size` weights, padded to whole blocks."""
        return ceil(size / (self.group * self.block)) * self.block

    def plane_sizes(self, size: int) -> tuple[int, ...]:
        """Return the bytes of each plane of `size` weights."""
        return tuple(self.code_count(size) * bits // 8 for bits in self.plane_bits)

    def packed_bytes(self, size: int) -> int:
        """Return the bytes of all planes of `size` weights."""
        return sum(self.plane_sizes(size))


@cache
def layouts(levels: int) -> tuple[Storage, ...]:
    """Return every layout for a number of levels, best first; the best one is written.

    The best layout has the fewest bits per weight, where each plane adds `PLANE_COST`. Among equal
    layouts, the one with the most weights per code needs the fewest lookups.

    Args:
        levels: number of levels, 1 to 256.

    Raises:
        ValueError: `levels` is out of range.
    """
    if not 1 <= levels <= 256:
        raise ValueError(f"levels must be 1 to 256, got {levels}")
    # One level needs an index as well; it is stored as one of two levels.
    levels = max(levels, 2)
    candidates = []
    for group in range(1, 9):
        code_bits = max((levels**group - 1).bit_length(), 8)
        if code_bits > MAX_CODE_BITS:
            break
        extra = tuple(bits for bits in (4, 2, 1) if (code_bits - 8) & bits)
        candidates.append(Storage(levels, group, (8, *extra)))

    def cost(storage: Storage) -> tuple[float, int]:
        planes = len(storage.plane_bits)
        return storage.bits_per_weight * (1 + PLANE_COST * planes), -storage.group

    return tuple(sorted(candidates, key=cost))


def storage_for(levels: int) -> Storage:
    """Return the layout in which weights with `levels` levels (1 to 256) are written."""
    return layouts(levels)[0]


def pack(indices: Indices, storage: Storage) -> tuple[Plane, ...]:
    """Pack indices into planes.

    Args:
        indices: uint8 [n], each below `storage.levels`.
        storage: the layout.

    Returns:
        One array per plane, low bits first: uint8 [code_count * bits / 8].
    """
    padding = storage.code_count(indices.size) * storage.group - indices.size
    codes = _join(np.pad(indices, (0, padding)), storage.levels, storage.group)
    planes: list[Plane] = [codes.astype(np.uint8)]
    shift = 8
    for bits in storage.plane_bits[1:]:
        part = ((codes >> shift) & (2**bits - 1)).astype(np.uint8)
        planes.append(_join(part, 2**bits, 8 // bits).astype(np.uint8, copy=False))
        shift += bits
    return tuple(planes)


def unpack(planes: tuple[Plane, ...], storage: Storage, size: int) -> Indices:
    """Return the indices that `pack` packed into planes: uint8 [size]."""
    codes = planes[0].astype(np.uint16)
    shift = 8
    for bits, plane in zip(storage.plane_bits[1:], planes[1:], strict=True):
        part = digits(2**bits, 8 // bits)[plane].reshape(-1)
        codes |= part.astype(np.uint16) << shift
        shift += bits
    return digits(storage.levels, storage.group)[codes].reshape(-1)[:size]


@cache
def digits(base: int, count: int) -> NDArray[np.uint8]:
    """Return the digits of all numbers below base^count, leading digit first.

    Returns:
        uint8 [base^count, count].
    """
    numbers = np.arange(base**count)[:, None]
    return (numbers // base ** np.arange(count - 1, -1, -1) % base).astype(np.uint8)


def _join(values: Indices, base: int, count: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read each run of `count` digits as a number in `base`."""
    columns = values.reshape(-1, count)
    joined = columns[:, 0].astype(np.uint8 if base**count <= 256 else np.uint16)
    for column in range(1, count):
        joined *= base
        joined += columns[:, column]
    return joined

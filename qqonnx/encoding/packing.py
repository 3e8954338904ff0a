"""Indices to packed bytes and back, for any number of levels from 1 to 256.

A *code* holds a *group* of weights: it is the number whose base-k digits, the first weight's
first, are the group's indices. Codes of at most 8 bits fill one byte each. Longer codes have
their low 8 bits in a byte plane and their remaining bits in planes of 4, 2 or 1 bits, several
to a byte. So 3 bits a weight are stored as four weights in 12 bits: a byte and half of another.

Everything here is little arithmetic on integers; `qqonnx.encoding.decode` writes the same
arithmetic as ONNX operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

MAX_CODE_BITS = 14
"""Longest code: a table of 2**14 rows is still small beside the weights it decodes."""

PLANE_COST = 0.03
"""What a plane must save, as a share of the size, to be worth decoding when the model loads."""

Indices = NDArray[np.uint8]
Plane = NDArray[np.uint8]


@dataclass(frozen=True)
class Storage:
    """How the indices of one weight initializer are laid out in bytes.

    Attributes:
        levels: number of levels k that an index can name.
        group: weights in a code.
        plane_bits: bits of each plane of a code, lowest first: (8,) or (8, ...) followed by
            any of 4, 2, 1 in falling order.
    """

    levels: int
    group: int
    plane_bits: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of different codes, which is the number of rows of the table they index."""
        return int(self.levels**self.group)

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each weight, padding at the end of the tensor left out."""
        return sum(self.plane_bits) / self.group

    @property
    def block(self) -> int:
        """Codes that fill a whole number of bytes in every plane."""
        return max(8 // bits for bits in self.plane_bits)

    def code_count(self, size: int) -> int:
        """Number of codes stored for `size` weights: groups, padded to a whole block."""
        return ceil(size / (self.group * self.block)) * self.block

    def plane_sizes(self, size: int) -> tuple[int, ...]:
        """Bytes of each plane for `size` weights."""
        return tuple(self.code_count(size) * bits // 8 for bits in self.plane_bits)

    def packed_bytes(self, size: int) -> int:
        """Bytes stored for `size` weights, all planes together."""
        return sum(self.plane_sizes(size))


@cache
def layouts(levels: int) -> tuple[Storage, ...]:
    """Return every layout for a number of levels, the one that is written first.

    That is the one with the fewest bits a weight, each further plane costing 3 % of load time, and
    among equals the one with the most weights a code: they are looked up together.

    Args:
        levels: number of levels, 1 to 256.
    """
    if not 1 <= levels <= 256:
        raise ValueError(f"levels must be 1 to 256, got {levels}")
    # One level still takes an index that decodes; it is stored as if there were two.
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
    """Return the layout that weights with `levels` levels (1 to 256) are written in."""
    return layouts(levels)[0]


def pack(indices: Indices, storage: Storage) -> tuple[Plane, ...]:
    """Pack indices into planes.

    Args:
        indices: uint8 [n], each below `storage.levels`.
        storage: the layout.

    Returns:
        One uint8 array a plane, lowest bits first: [code_count * plane_bits / 8].
    """
    codes = _codes(indices, storage)
    planes: list[Plane] = [codes.astype(np.uint8)]
    shift = 8
    for bits in storage.plane_bits[1:]:
        part = ((codes >> shift) & (2**bits - 1)).astype(np.uint8)
        planes.append(_join(part, 2**bits, 8 // bits).astype(np.uint8, copy=False))
        shift += bits
    return tuple(planes)


def unpack(planes: tuple[Plane, ...], storage: Storage, size: int) -> Indices:
    """Return the `size` indices (uint8 [size]) that `pack` packed into `planes`."""
    codes = planes[0].astype(np.uint16)
    shift = 8
    for bits, plane in zip(storage.plane_bits[1:], planes[1:], strict=True):
        codes |= _split(plane, 2**bits, 8 // bits).astype(np.uint16) << shift
        shift += bits
    return digits(storage.levels, storage.group)[codes].reshape(-1)[:size]


@cache
def digits(base: int, count: int) -> NDArray[np.uint8]:
    """Digits of every number below base**count: uint8 [base**count, count], leading digit first."""
    numbers = np.arange(base**count)[:, None]
    return (numbers // base ** np.arange(count - 1, -1, -1) % base).astype(np.uint8)


def _codes(indices: Indices, storage: Storage) -> NDArray[np.uint8] | NDArray[np.uint16]:
    padding = storage.code_count(indices.size) * storage.group - indices.size
    padded = np.pad(indices, (0, padding)) if padding else indices
    return _join(padded, storage.levels, storage.group)


def _join(values: Indices, base: int, count: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read each run of `count` digits as a number in `base`."""
    columns = values.reshape(-1, count)
    joined = columns[:, 0].astype(np.uint8 if base**count <= 256 else np.uint16)
    for column in range(1, count):
        joined *= base
        joined += columns[:, column]
    return joined


def _split(numbers: Plane, base: int, count: int) -> Indices:
    return digits(base, count)[numbers].reshape(-1)

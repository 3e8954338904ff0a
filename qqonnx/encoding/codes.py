"""Nodes that unpack planes to codes, and that compute the digits of codes, which are indices.

If a weight has several planes, its codes are in blocks: [blocks, block]. Each byte of a plane above
the byte plane contains several fields of 4, 2 or 1 bits, which are looked up as uint8, not int32.
One MatMulInteger then computes all codes of a block: code = byte * 2^e + fields, where the planes
above the byte plane have e bits per code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qqonnx.encoding.builder import Builder, integers, shared

if TYPE_CHECKING:
    from qqonnx.encoding.packing import Storage
    from qqonnx.encoding.stored import CodebookWeight

WIDE = np.dtype("<u2")
"""Type of two bytes of a plane as one number: half the lookups, in a table of 2^16 rows."""


def add_codes(builder: Builder, weight: CodebookWeight, shape: tuple[int, ...]) -> ir.Value:
    """Add the nodes that read the codes of a weight.

    Args:
        builder: the decode nodes so far.
        weight: the weight.
        shape: shape of the codes if the weight has one plane.

    Returns:
        The codes, as row numbers of `add_digits`: int32, of `shape`, or [blocks, block] if the
        weight has several planes.
    """
    low, *others = weight.planes
    storage = weight.storage
    if not others:
        stored = builder.constant(low.reshape(shape), "i")
        return builder.apply("Cast", [stored], "c", to=ir.DataType.INT32)
    block = storage.block
    parts = [builder.constant(low.reshape(-1, block), "i")]
    for bits, plane in zip(storage.plane_bits[1:], others, strict=True):
        stored = builder.constant(plane, "i")
        packed = builder.apply("Cast", [stored], "c", to=ir.DataType.INT32)
        part = builder.apply("Gather", [_fields(builder, bits), packed], "p")
        if 8 // bits != block:
            part = builder.apply("Reshape", [part, integers(builder, (-1, block), np.int64)], "p")
        parts.append(part)
    joined = builder.apply("Concat", parts, "p", axis=1)
    return builder.apply("MatMulInteger", [joined, _factors(builder, storage.plane_bits)], "c")


def add_wide_codes(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Add the nodes that read two one-byte codes at once.

    Returns:
        Pairs of codes, as row numbers of `add_wide_digits`: int32 [codes / 2].
    """
    stored = builder.constant(weight.planes[0].view(WIDE), "i")
    return builder.apply("Cast", [stored], "c", to=ir.DataType.INT32)


@shared
def add_digits(builder: Builder, storage: Storage) -> ir.Value:
    """Add the digits of every code, first weight first: int32 [rows, group]."""
    codes = _codes(builder, sum(storage.plane_bits[1:]))
    return _digits(builder, codes, storage.levels, storage.group)


@shared
def add_wide_digits(builder: Builder, storage: Storage) -> ir.Value:
    """Add the digits of both codes of every pair: int32 [2^16, 2 * group]."""
    pairs = _numbers(builder, 2**16)
    byte = integers(builder, 256, np.int32)
    codes = [builder.apply(op, [pairs, byte], "d") for op in ("Mod", "Div")]
    digits = [_digits(builder, code, storage.levels, storage.group) for code in codes]
    return builder.apply("Concat", digits, "d", axis=1)


@shared
def add_small_digits(builder: Builder, storage: Storage) -> ir.Value:
    """Add `add_digits` as uint8 [rows, group]."""
    return builder.apply("Cast", [add_digits(builder, storage)], "d", to=ir.DataType.UINT8)


@shared
def _fields(builder: Builder, bits: int) -> ir.Value:
    """Add the fields of every byte, highest bits first: uint8 [256, 8 / bits]."""
    fields = _digits(builder, _numbers(builder, 256), 2**bits, 8 // bits)
    return builder.apply("Cast", [fields], "d", to=ir.DataType.UINT8)


@shared
def _factors(builder: Builder, plane_bits: tuple[int, ...]) -> ir.Value:
    """Add the factor of each byte and field of a block in each code: uint8 [planes * block, block].

    No factor is above 64, so kernels that add two products in 16 bits do not overflow.
    """
    extra = plane_bits[1:]
    block = 8 // min(plane_bits)
    units = [2 ** sum(extra), *(2 ** sum(extra[:plane]) for plane in range(len(extra)))]
    eye = np.eye(block, dtype=np.uint8)
    return builder.constant(np.concatenate([eye * np.uint8(unit) for unit in units]), "n")


@shared
def _numbers(builder: Builder, count: int) -> ir.Value:
    """Add the numbers 0, 1, 2, ...: int32 [count, 1]."""
    bounds = [integers(builder, number, np.int32) for number in (0, count, 1)]
    numbers = builder.apply("Range", bounds, "d")
    return builder.apply("Reshape", [numbers, integers(builder, (-1, 1), np.int64)], "d")


@shared
def _codes(builder: Builder, extra: int) -> ir.Value:
    """Add all codes of 8 + `extra` bits in the order of their row numbers: int32 [codes, 1]."""
    codes = _numbers(builder, 2 ** (8 + extra))
    if not extra:
        return codes
    # In the row numbers of `add_codes`, the low 8 bits of a code (its byte) come first.
    table = builder.apply("Reshape", [codes, integers(builder, (-1, 256), np.int64)], "d")
    table = builder.apply("Transpose", [table], "d", perm=[1, 0])
    return builder.apply("Reshape", [table, integers(builder, (-1, 1), np.int64)], "d")


def _digits(builder: Builder, numbers: ir.Value, base: int, count: int) -> ir.Value:
    """Add the last `count` digits of numbers [n, 1]: int32 [n, count]."""
    powers = tuple(base**power for power in range(count - 1, -1, -1))
    parts = builder.apply("Div", [numbers, integers(builder, powers, np.int32)], "d")
    return builder.apply("Mod", [parts, integers(builder, base, np.int32)], "d")

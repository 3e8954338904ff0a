"""The nodes from packed bytes to codes, and from codes to the digits that are indices.

A weight with several planes has its codes in blocks [blocks, block]. The fields of the higher
planes are looked up in bytes, not in int32, and one MatMulInteger puts the codes of a block
together from all its bytes: code = byte * 2^e + fields, where e is the bits above the byte plane's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from qqonnx.encoding.builder import Builder
    from qqonnx.encoding.packing import Storage
    from qqonnx.encoding.stored import CodebookWeight

WIDE = np.dtype("<u2")
"""Two bytes of a plane read as one number: half the look-ups, in a table of 2^16 rows."""


def add_codes(builder: Builder, weight: CodebookWeight, shape: tuple[int, ...]) -> ir.Value:
    """Add the nodes that read the codes of a weight: int32, numbers of rows of `add_digits`.

    Args:
        builder: where.
        weight: the weight.
        shape: of the codes, if they fill a byte each.

    Returns:
        The codes, of `shape`, or [blocks, block] of several planes.
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
            part = builder.apply("Reshape", [part, builder.integers((-1, block), np.int64)], "p")
        parts.append(part)
    joined = builder.apply("Concat", parts, "p", axis=1)
    return builder.apply("MatMulInteger", [joined, _factors(builder, storage)], "c")


def add_wide_codes(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Add the nodes that read two codes of a byte at once: int32 [codes / 2].

    They are numbers of rows of `add_wide_digits`.
    """
    stored = builder.constant(weight.planes[0].view(WIDE), "i")
    return builder.apply("Cast", [stored], "c", to=ir.DataType.INT32)


def add_digits(builder: Builder, storage: Storage) -> ir.Value:
    """Digits of every code as `add_codes` numbers them: int32 [rows, m], first weight's first."""
    extra = sum(storage.plane_bits[1:])
    key = ("digits", storage.levels, storage.group, extra)
    if key not in builder.shared:
        codes = _numbers(builder, 2 ** (8 + extra))
        if extra:
            # The byte plane, which has the low bits of a code, comes first.
            codes = _swapped(builder, codes, 2**extra, 256)
        builder.shared[key] = _digits(builder, codes, storage.levels, storage.group)
    return builder.shared[key]


def add_wide_digits(builder: Builder, storage: Storage) -> ir.Value:
    """Digits of both bytes of every number of `add_wide_codes`: int32 [2^16, 2 m]."""
    key = ("wide", storage.levels, storage.group)
    if key not in builder.shared:
        numbers = _numbers(builder, 2**16)
        byte = builder.integers(256, np.int32)
        halves = [builder.apply(op, [numbers, byte], "d") for op in ("Mod", "Div")]
        digits = [_digits(builder, half, storage.levels, storage.group) for half in halves]
        builder.shared[key] = builder.apply("Concat", digits, "d", axis=1)
    return builder.shared[key]


def add_small_digits(builder: Builder, storage: Storage) -> ir.Value:
    """The same as `add_digits`, in bytes: uint8 [rows, m]."""
    digits = add_digits(builder, storage)
    key = ("small", digits)
    if key not in builder.shared:
        builder.shared[key] = builder.apply("Cast", [digits], "d", to=ir.DataType.UINT8)
    return builder.shared[key]


def _fields(builder: Builder, bits: int) -> ir.Value:
    """Fields of every byte, the highest first: uint8 [256, 8 / bits]."""
    key = ("fields", bits)
    if key not in builder.shared:
        fields = _digits(builder, _numbers(builder, 256), 2**bits, 8 // bits)
        builder.shared[key] = builder.apply("Cast", [fields], "d", to=ir.DataType.UINT8)
    return builder.shared[key]


def _factors(builder: Builder, storage: Storage) -> ir.Value:
    """What each byte of a block counts in each of its codes: uint8 [planes * block, block]."""
    key = ("factors", storage.plane_bits)
    if key not in builder.shared:
        # No factor is above 64: kernels that add two products in 16 bits do not overflow.
        above = storage.plane_bits[1:]
        units = [2 ** sum(above), *(2 ** sum(above[:plane]) for plane in range(len(above)))]
        eye = np.eye(storage.block, dtype=np.uint8)
        factors = np.concatenate([eye * np.uint8(unit) for unit in units])
        builder.shared[key] = builder.constant(factors, "n")
    return builder.shared[key]


def _numbers(builder: Builder, count: int) -> ir.Value:
    """0, 1, 2, ...: int32 [count, 1]."""
    key = ("numbers", count)
    if key not in builder.shared:
        bounds = [builder.integers(number, np.int32) for number in (0, count, 1)]
        numbers = builder.apply("Range", bounds, "d")
        shape = builder.integers((-1, 1), np.int64)
        builder.shared[key] = builder.apply("Reshape", [numbers, shape], "d")
    return builder.shared[key]


def _swapped(builder: Builder, numbers: ir.Value, low: int, high: int) -> ir.Value:
    """Numbers / low + numbers % low * high."""
    divisor = builder.integers(low, np.int32)
    quotient = builder.apply("Div", [numbers, divisor], "d")
    rest = builder.apply("Mod", [numbers, divisor], "d")
    rest = builder.apply("Mul", [rest, builder.integers(high, np.int32)], "d")
    return builder.apply("Add", [quotient, rest], "d")


def _digits(builder: Builder, numbers: ir.Value, base: int, count: int) -> ir.Value:
    """Last `count` digits of numbers [n, 1]: int32 [n, count]."""
    powers = tuple(base**power for power in range(count - 1, -1, -1))
    parts = builder.apply("Div", [numbers, builder.integers(powers, np.int32)], "d")
    return builder.apply("Mod", [parts, builder.integers(base, np.int32)], "d")

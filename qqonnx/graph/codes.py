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
    from qqonnx.graph.scope import Scope
    from qqonnx.packing import Storage
    from qqonnx.quantize import QuantizedWeight

WIDE = np.dtype("<u2")
"""Two bytes of a plane read as one number: half the look-ups, in a table of 2^16 rows."""


def add_codes(scope: Scope, weight: QuantizedWeight, shape: tuple[int, ...]) -> ir.Value:
    """Add the nodes that read the codes of a weight: int32, numbers of rows of `add_digits`.

    Args:
        scope: where.
        weight: the weight.
        shape: of the codes, if they fill a byte each.

    Returns:
        The codes, of `shape`, or [blocks, block] of several planes.
    """
    low, *others = weight.planes
    storage = weight.storage
    if not others:
        stored = scope.constant(low.reshape(shape), "i")
        return scope.apply("Cast", [stored], "c", to=ir.DataType.INT32)
    block = storage.block
    parts = [scope.constant(low.reshape(-1, block), "i")]
    for bits, plane in zip(storage.plane_bits[1:], others, strict=True):
        stored = scope.constant(plane, "i")
        packed = scope.apply("Cast", [stored], "c", to=ir.DataType.INT32)
        part = scope.apply("Gather", [_fields(scope, bits), packed], "p")
        if 8 // bits != block:
            part = scope.apply("Reshape", [part, scope.integers((-1, block), np.int64)], "p")
        parts.append(part)
    joined = scope.apply("Concat", parts, "p", axis=1)
    return scope.apply("MatMulInteger", [joined, _factors(scope, storage)], "c")


def add_wide_codes(scope: Scope, weight: QuantizedWeight) -> ir.Value:
    """Add the nodes that read two codes of a byte at once: int32 [codes / 2].

    They are numbers of rows of `add_wide_digits`.
    """
    stored = scope.constant(weight.planes[0].view(WIDE), "i")
    return scope.apply("Cast", [stored], "c", to=ir.DataType.INT32)


def add_digits(scope: Scope, storage: Storage) -> ir.Value:
    """Digits of every code as `add_codes` numbers them: int32 [rows, m], first weight's first."""
    extra = sum(storage.plane_bits[1:])
    key = ("digits", storage.levels, storage.group, extra)
    if key not in scope.shared:
        codes = _numbers(scope, 2 ** (8 + extra))
        if extra:
            # The byte plane, which has the low bits of a code, comes first.
            codes = _swapped(scope, codes, 2**extra, 256)
        scope.shared[key] = _digits(scope, codes, storage.levels, storage.group)
    return scope.shared[key]


def add_wide_digits(scope: Scope, storage: Storage) -> ir.Value:
    """Digits of both bytes of every number of `add_wide_codes`: int32 [2^16, 2 m]."""
    key = ("wide", storage.levels, storage.group)
    if key not in scope.shared:
        numbers = _numbers(scope, 2**16)
        byte = scope.integers(256, np.int32)
        halves = [scope.apply(op, [numbers, byte], "d") for op in ("Mod", "Div")]
        digits = [_digits(scope, half, storage.levels, storage.group) for half in halves]
        scope.shared[key] = scope.apply("Concat", digits, "d", axis=1)
    return scope.shared[key]


def add_small_digits(scope: Scope, storage: Storage) -> ir.Value:
    """The same as `add_digits`, in bytes: uint8 [rows, m]."""
    digits = add_digits(scope, storage)
    key = ("small", digits)
    if key not in scope.shared:
        scope.shared[key] = scope.apply("Cast", [digits], "d", to=ir.DataType.UINT8)
    return scope.shared[key]


def _fields(scope: Scope, bits: int) -> ir.Value:
    """Fields of every byte, the highest first: uint8 [256, 8 / bits]."""
    key = ("fields", bits)
    if key not in scope.shared:
        fields = _digits(scope, _numbers(scope, 256), 2**bits, 8 // bits)
        scope.shared[key] = scope.apply("Cast", [fields], "d", to=ir.DataType.UINT8)
    return scope.shared[key]


def _factors(scope: Scope, storage: Storage) -> ir.Value:
    """What each byte of a block counts in each of its codes: uint8 [planes * block, block]."""
    key = ("factors", storage.plane_bits)
    if key not in scope.shared:
        # No factor is above 64: kernels that add two products in 16 bits do not overflow.
        above = storage.plane_bits[1:]
        units = [2 ** sum(above), *(2 ** sum(above[:plane]) for plane in range(len(above)))]
        eye = np.eye(storage.block, dtype=np.uint8)
        factors = np.concatenate([eye * np.uint8(unit) for unit in units])
        scope.shared[key] = scope.constant(factors, "n")
    return scope.shared[key]


def _numbers(scope: Scope, count: int) -> ir.Value:
    """0, 1, 2, ...: int32 [count, 1]."""
    key = ("numbers", count)
    if key not in scope.shared:
        bounds = [scope.integers(number, np.int32) for number in (0, count, 1)]
        numbers = scope.apply("Range", bounds, "d")
        shape = scope.integers((-1, 1), np.int64)
        scope.shared[key] = scope.apply("Reshape", [numbers, shape], "d")
    return scope.shared[key]


def _swapped(scope: Scope, numbers: ir.Value, low: int, high: int) -> ir.Value:
    """Numbers / low + numbers % low * high."""
    divisor = scope.integers(low, np.int32)
    quotient = scope.apply("Div", [numbers, divisor], "d")
    rest = scope.apply("Mod", [numbers, divisor], "d")
    rest = scope.apply("Mul", [rest, scope.integers(high, np.int32)], "d")
    return scope.apply("Add", [quotient, rest], "d")


def _digits(scope: Scope, numbers: ir.Value, base: int, count: int) -> ir.Value:
    """Last `count` digits of numbers [n, 1]: int32 [n, count]."""
    powers = tuple(base**power for power in range(count - 1, -1, -1))
    parts = scope.apply("Div", [numbers, scope.integers(powers, np.int32)], "d")
    return scope.apply("Mod", [parts, scope.integers(base, np.int32)], "d")

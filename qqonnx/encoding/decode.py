"""Nodes of standard ONNX operators that decode a weight from packed indices.

For a codebook of k levels and codes of m weights, with D the digits of the numbers below k^m:

    table  = Gather(codebook [k], D [k^m, m])                 one row of m levels per code
    weight = Reshape(Gather(table, codes))  [* scales]

ONNX Runtime folds all nodes into a plain initializer when it loads the model. Nodes also compute D,
once per model, so the file stores only indices and levels.

ONNX Runtime keeps all intermediate results until it has folded the last node, and access to this
memory dominates the cost of decoding. So each weight gets the nodes with the fewest intermediate
bytes, and among these the fewest lookups. `tools/bench_load.py` measures them.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx_ir as ir

from qqonnx.encoding.builder import Builder, integers, shared
from qqonnx.encoding.codes import (
    add_codes,
    add_digits,
    add_small_digits,
    add_wide_codes,
    add_wide_digits,
)
from qqonnx.encoding.encode import broadcastable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.encoding.stored import CodebookWeight, RoundedWeight

TABLE_RATIO = 4
"""Smallest ratio of the weight's size to that of a table that only saves time."""


class Matrix(NamedTuple):
    """A weight as a matrix [channels, values] or [values, channels].

    Attributes:
        shape: the matrix's shape.
        axis: axis of the values. The levels of a codebook per channel lie along this axis.
    """

    shape: tuple[int, int]
    axis: int


def add_rounded(builder: Builder, weight: RoundedWeight) -> ir.Value:
    """Add a Cast from float16 to the weight's dtype and return its output."""
    values = builder.constant(weight.values, "h")
    return builder.apply("Cast", [values], "w", to=weight.dtype)


def add_decode(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Add the nodes that compute a weight and return the last output, of the weight's shape."""
    if weight.codebook.ndim == 2:
        return _decoded_by_channel(builder, weight)
    if weight.scales is None or weight.is_integer:
        return _decoded(builder, weight)
    matrix = _matrix(weight)
    if weight.storage.group == 1 and matrix is not None:
        channels = matrix.shape[1 - matrix.axis]
        if _is_small(channels * weight.storage.levels, weight):
            return _decoded_by_scaled_codebooks(builder, weight, matrix)
    axis = weight.channel_axis
    assert axis is not None
    scales = builder.constant(broadcastable(weight.scales, axis, len(weight.shape)), "s")
    return multiplied(builder, _decoded(builder, weight), scales, weight)


def _decoded(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Decode with one codebook for all channels, without scales."""
    storage, shape = weight.storage, weight.shape
    codebook = _levels(builder, weight)
    if storage.group == 1:
        codes = add_codes(builder, weight, shape)
        rows = (*shape[:-1], storage.levels)
        if not _is_small(prod(rows), weight):
            return builder.apply("Gather", [codebook, codes], "w")
        # A lookup along the last axis takes a fraction of the time of a Gather of single levels.
        codebook = builder.apply("Expand", [codebook, integers(builder, rows, np.int64)], "t")
        return builder.apply("GatherElements", [codebook, codes], "w", axis=len(shape) - 1)
    if _is_wide(weight):
        digits, codes = add_wide_digits(builder, storage), add_wide_codes(builder, weight)
    else:
        digits, codes = add_digits(builder, storage), add_codes(builder, weight, (-1,))
        if storage.rows * storage.group > prod(shape):
            # The table would be larger than the weight.
            indices = builder.apply("Gather", [digits, codes], "c")
            indices = shaped(builder, indices, weight, shape)
            return builder.apply("Gather", [codebook, indices], "w")
    table = builder.apply("Gather", [codebook, digits], "t")
    gathered = builder.apply("Gather", [table, codes], "w")
    return shaped(builder, gathered, weight, shape)


def _levels(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Add the levels of the one codebook of a weight: [levels]."""
    levels = padded(weight.codebook, weight.storage.levels)
    if levels.dtype != np.uint8:
        return builder.constant(levels, "l")
    # To readers, constants of bytes are packed indices. Float16 has all integers of a byte.
    stored = builder.constant(levels.astype(np.float16), "l")
    return builder.apply("Cast", [stored], "l", to=ir.DataType.UINT8)


def add_indices(builder: Builder, weight: CodebookWeight, shape: tuple[int, ...]) -> ir.Value:
    """Add the nodes that compute the indices of a weight: int32, of the given shape."""
    if weight.storage.group == 1:
        return add_codes(builder, weight, shape)
    digits, codes = add_small_digits(builder, weight.storage), add_codes(builder, weight, (-1,))
    small = shaped(builder, builder.apply("Gather", [digits, codes], "c"), weight, shape)
    return builder.apply("Cast", [small], "c", to=ir.DataType.INT32)


def _decoded_by_channel(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Decode with a codebook per channel."""
    storage = weight.storage
    codebooks = padded(weight.codebook, storage.levels)
    matrix = _matrix(weight)
    shape = matrix.shape if matrix else weight.shape
    indices = add_indices(builder, weight, shape)
    if matrix:
        levels = builder.constant(codebooks if matrix.axis == 1 else codebooks.T, "l")
        return _looked_up(builder, levels, indices, matrix, weight.shape)
    channels, axis = weight.codebook.shape[0], weight.channel_axis
    assert axis is not None
    offsets = _channel_offsets(builder, channels, codebooks.shape[1], len(shape) - 1 - axis)
    indices = builder.apply("Add", [indices, offsets], "c")
    levels = builder.constant(codebooks.reshape(-1), "l")
    return builder.apply("Gather", [levels, indices], "w")


def _decoded_by_scaled_codebooks(
    builder: Builder, weight: CodebookWeight, matrix: Matrix
) -> ir.Value:
    """Decode with a codebook per channel, which is the product of codebook and scale."""
    assert weight.scales is not None
    shape, axis = matrix
    levels = builder.constant(broadcastable(weight.codebook, axis, 2), "l")
    scales = builder.constant(broadcastable(weight.scales, 1 - axis, 2), "s")
    codebooks = multiplied(builder, levels, scales, weight)
    return _looked_up(builder, codebooks, add_codes(builder, weight, shape), matrix, weight.shape)


def _looked_up(
    builder: Builder,
    codebooks: ir.Value,
    indices: ir.Value,
    matrix: Matrix,
    shape: tuple[int, ...],
) -> ir.Value:
    """Look up indices, which have the matrix's shape, in the codebooks of their channels."""
    decoded = builder.apply("GatherElements", [codebooks, indices], "w", axis=matrix.axis)
    return decoded if matrix.shape == shape else reshaped(builder, decoded, shape)


def _matrix(weight: CodebookWeight) -> Matrix | None:
    """Return the weight as a matrix; None if there are other axes on both sides of the channels."""
    shape, axis = weight.shape, weight.channel_axis
    assert axis is not None
    before, after = prod(shape[:axis]), prod(shape[axis + 1 :])
    if before == 1:
        return Matrix((shape[axis], after), 1)
    if after == 1:
        return Matrix((before, shape[axis]), 0)
    return None


def _is_wide(weight: CodebookWeight) -> bool:
    """Return whether two bytes are looked up at once, in a table of 2^16 rows."""
    storage = weight.storage
    return (
        len(weight.planes) == 1
        and weight.planes[0].size % 2 == 0
        and _is_small(2**16 * 2 * storage.group, weight)
    )


def _is_small(table_size: int, weight: CodebookWeight) -> bool:
    return table_size * TABLE_RATIO <= prod(weight.shape)


def multiplied(
    builder: Builder, decoded: ir.Value, scales: ir.Value, weight: CodebookWeight
) -> ir.Value:
    """Add the product of levels and scales, in the weight's dtype."""
    assert weight.scales is not None
    dtype = ir.DataType.from_numpy(weight.codebook.dtype)
    if dtype != ir.DataType.BFLOAT16:
        if weight.scales.dtype != weight.codebook.dtype:
            scales = builder.apply("Cast", [scales], "s", to=dtype)
        return builder.apply("Mul", [decoded, scales], "w")
    # ONNX Runtime cannot multiply bfloat16 on the CPU; the rounded float32 product is the same.
    factors = [
        builder.apply("Cast", [factor], "f", to=ir.DataType.FLOAT) for factor in (decoded, scales)
    ]
    product = builder.apply("Mul", factors, "f")
    return builder.apply("Cast", [product], "w", to=ir.DataType.BFLOAT16)


def padded(codebook: NDArray[np.generic], levels: int) -> NDArray[np.generic]:
    """Return a codebook [..., k] with the last level repeated: [..., levels]."""
    return np.asarray(codebook.take(np.minimum(np.arange(levels), codebook.shape[-1] - 1), axis=-1))


def shaped(
    builder: Builder, decoded: ir.Value, weight: CodebookWeight, shape: tuple[int, ...]
) -> ir.Value:
    """Remove the padding at the end and reshape to `shape`."""
    storage, size = weight.storage, prod(shape)
    if storage.code_count(size) * storage.group != size:
        flat = reshaped(builder, decoded, (-1,))
        bounds = [integers(builder, (0,), np.int64), builder.constant(np.array([size]), "n")]
        decoded = builder.apply("Slice", [flat, *bounds], "w")
    return reshaped(builder, decoded, shape)


def reshaped(builder: Builder, values: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """Add a Reshape."""
    return builder.apply("Reshape", [values, integers(builder, shape, np.int64)], "w")


@shared
def _channel_offsets(builder: Builder, channels: int, levels: int, trailing: int) -> ir.Value:
    """Add the position of each channel's first level: int32 [channels, 1, ..., 1].

    `trailing` is the number of axes of size 1.
    """
    bounds = [integers(builder, n, np.int32) for n in (0, channels * levels, levels)]
    offsets = builder.apply("Range", bounds, "o")
    return reshaped(builder, offsets, (channels,) + (1,) * trailing)

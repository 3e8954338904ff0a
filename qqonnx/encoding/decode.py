"""The nodes that turn packed indices back into a weight, in standard ONNX operators.

For a codebook of k levels and codes of m weights, with D the digits of the numbers below k^m:

    table  = Gather(codebook [k], D [k^m, m])                 one row of m levels for each code
    weight = Reshape(Gather(table, codes))  [* scales]

ONNX Runtime folds all of it into a plain initializer when it loads the model. D is computed by
nodes too, once for the whole model, so that the file stores only indices and levels.

Until ONNX Runtime has folded the last node it keeps what every node gave, and touching that memory
is most of what decoding costs. So every form here is the one with the fewest bytes on the way, and
then the fewest look-ups. `tools/bench_load.py` measures them.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

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

    from qqonnx.encoding.builder import Builder
    from qqonnx.encoding.stored import CodebookWeight, RoundedWeight

TABLE_SHARE = 4
"""A table that is there for speed has at most one number for so many of the weight."""


def add_rounded(builder: Builder, weight: RoundedWeight) -> ir.Value:
    """Add a Cast from float16 to the dtype of `weight`; returns its output."""
    values = builder.constant(weight.values, "h")
    return builder.apply("Cast", [values], "w", to=weight.dtype)


def add_decode(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Add the nodes that compute `weight`; returns their last output, of the weight's shape."""
    if weight.codebook.ndim == 2:
        return _decoded_by_channel(builder, weight)
    if weight.scales is None:
        return _decoded(builder, weight)
    if weight.storage.group == 1 and _looks_up_in_rows(weight):
        return _decoded_by_scaled_codebooks(builder, weight)
    axis = weight.channel_axis
    assert axis is not None
    scales = builder.constant(broadcastable(weight.scales, axis, len(weight.shape)), "s")
    return _multiplied(builder, _decoded(builder, weight), scales, weight)


def _decoded(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Decode with one codebook for all channels, without scales."""
    storage, shape = weight.storage, weight.shape
    codebook = builder.constant(_padded(weight.codebook, storage.levels), "l")
    if storage.group == 1:
        codes = add_codes(builder, weight, shape)
        rows = (*shape[:-1], storage.levels)
        if not _is_small(prod(rows), weight):
            return builder.apply("Gather", [codebook, codes], "w")
        # Along the last axis a look-up takes a fraction of what a Gather of one level does.
        codebook = builder.apply("Expand", [codebook, builder.integers(rows, np.int64)], "t")
        return builder.apply("GatherElements", [codebook, codes], "w", axis=len(shape) - 1)
    if _is_wide(weight):
        digits, codes = add_wide_digits(builder, storage), add_wide_codes(builder, weight)
    else:
        digits, codes = add_digits(builder, storage), add_codes(builder, weight, (-1,))
        if storage.rows * storage.group > prod(shape):
            # The table would be larger than the weight.
            indices = builder.apply("Gather", [digits, codes], "c")
            return builder.apply(
                "Gather", [codebook, _shaped(builder, indices, weight, shape)], "w"
            )
    table = builder.apply("Gather", [codebook, digits], "t")
    gathered = builder.apply("Gather", [table, codes], "w")
    return _shaped(builder, gathered, weight, shape)


def _decoded_by_channel(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Look every index up in the codebook of its channel."""
    storage = weight.storage
    codebooks = _padded(weight.codebook, storage.levels)
    matrix = _matrix(weight)
    shape = matrix[0] if matrix else weight.shape
    if storage.group == 1:
        indices = add_codes(builder, weight, shape)
    else:
        digits, codes = add_small_digits(builder, storage), add_codes(builder, weight, (-1,))
        small = _shaped(builder, builder.apply("Gather", [digits, codes], "c"), weight, shape)
        indices = builder.apply("Cast", [small], "c", to=ir.DataType.INT32)
    if matrix:
        levels = builder.constant(codebooks if matrix[1] == 1 else codebooks.T, "l")
        return _looked_up(builder, levels, indices, matrix, weight.shape)
    channels, axis = weight.codebook.shape[0], weight.channel_axis
    assert axis is not None
    offsets = _channel_offsets(builder, channels, codebooks.shape[1], len(shape) - 1 - axis)
    indices = builder.apply("Add", [indices, offsets], "c")
    levels = builder.constant(codebooks.reshape(-1), "l")
    return builder.apply("Gather", [levels, indices], "w")


def _decoded_by_scaled_codebooks(builder: Builder, weight: CodebookWeight) -> ir.Value:
    """Multiply the codebook by each channel's scale, and look every index up in its channel's."""
    matrix = _matrix(weight)
    assert matrix is not None
    assert weight.scales is not None
    shape, axis = matrix
    levels = builder.constant(broadcastable(weight.codebook, axis, 2), "l")
    scales = builder.constant(broadcastable(weight.scales, 1 - axis, 2), "s")
    codebooks = _multiplied(builder, levels, scales, weight)
    return _looked_up(builder, codebooks, add_codes(builder, weight, shape), matrix, weight.shape)


def _looked_up(
    builder: Builder,
    codebooks: ir.Value,
    indices: ir.Value,
    matrix: tuple[tuple[int, int], int],
    shape: tuple[int, ...],
) -> ir.Value:
    """Look indices of the shape of `matrix_of` up in the codebooks of their channels."""
    flat, axis = matrix
    decoded = builder.apply("GatherElements", [codebooks, indices], "w", axis=axis)
    return decoded if flat == shape else _reshaped(builder, decoded, shape)


def _matrix(weight: CodebookWeight) -> tuple[tuple[int, int], int] | None:
    axis = weight.channel_axis
    assert axis is not None
    return matrix_of(weight.shape, axis)


def matrix_of(shape: tuple[int, ...], axis: int) -> tuple[tuple[int, int], int] | None:
    """Return a weight's shape as a matrix and the axis that is not the channels', if it is one.

    It is one when all axes before the channels' are of size 1, or all after it. Levels of a
    codebook for each channel lie along that axis, scales along the other.

    Args:
        shape: of the weight.
        axis: the channels'.
    """
    before, after = prod(shape[:axis]), prod(shape[axis + 1 :])
    if before == 1:
        return (shape[axis], after), 1
    if after == 1:
        return (before, shape[axis]), 0
    return None


def _looks_up_in_rows(weight: CodebookWeight) -> bool:
    """Whether a codebook for each channel is small enough to be computed."""
    matrix = _matrix(weight)
    if matrix is None:
        return False
    shape, axis = matrix
    return _is_small(shape[1 - axis] * weight.storage.levels, weight)


def _is_wide(weight: CodebookWeight) -> bool:
    """Whether two bytes are looked up at once, in a table of 2^16 rows."""
    storage = weight.storage
    return (
        len(weight.planes) == 1
        and weight.planes[0].size % 2 == 0
        and _is_small(2**16 * 2 * storage.group, weight)
    )


def _is_small(numbers: int, weight: CodebookWeight) -> bool:
    return numbers * TABLE_SHARE <= prod(weight.shape)


def _multiplied(
    builder: Builder, decoded: ir.Value, scales: ir.Value, weight: CodebookWeight
) -> ir.Value:
    assert weight.scales is not None
    dtype = ir.DataType.from_numpy(weight.codebook.dtype)
    if dtype != ir.DataType.BFLOAT16:
        if weight.scales.dtype != weight.codebook.dtype:
            scales = builder.apply("Cast", [scales], "s", to=dtype)
        return builder.apply("Mul", [decoded, scales], "w")
    # ONNX Runtime multiplies no bfloat16 on the CPU; rounding the float32 product is the same.
    factors = [
        builder.apply("Cast", [factor], "f", to=ir.DataType.FLOAT) for factor in (decoded, scales)
    ]
    product = builder.apply("Mul", factors, "f")
    return builder.apply("Cast", [product], "w", to=ir.DataType.BFLOAT16)


def _padded(codebook: NDArray[np.generic], levels: int) -> NDArray[np.generic]:
    """Repeat the last level of [..., k] until there are `levels`."""
    missing = levels - codebook.shape[-1]
    if missing <= 0:
        return codebook
    return np.concatenate([codebook, np.repeat(codebook[..., -1:], missing, axis=-1)], axis=-1)


def _shaped(
    builder: Builder, decoded: ir.Value, weight: CodebookWeight, shape: tuple[int, ...]
) -> ir.Value:
    """Cut the padding at the end off and give the values `shape`."""
    storage, size = weight.storage, prod(shape)
    if storage.code_count(size) * storage.group != size:
        flat = _reshaped(builder, decoded, (-1,))
        bounds = [builder.integers((0,), np.int64), builder.constant(np.array([size]), "n")]
        decoded = builder.apply("Slice", [flat, *bounds], "w")
    return _reshaped(builder, decoded, shape)


def _reshaped(builder: Builder, values: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    return builder.apply("Reshape", [values, builder.integers(shape, np.int64)], "w")


def _channel_offsets(builder: Builder, channels: int, levels: int, trailing: int) -> ir.Value:
    """First level of each channel: int32 [channels, 1, ..., 1] with `trailing` ones."""
    key = ("offsets", channels, levels, trailing)
    if key not in builder.shared:
        bounds = [builder.integers(n, np.int32) for n in (0, channels * levels, levels)]
        offsets = builder.apply("Range", bounds, "o")
        shape = (channels,) + (1,) * trailing
        builder.shared[key] = _reshaped(builder, offsets, shape)
    return builder.shared[key]

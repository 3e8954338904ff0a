"""Encode a weight: from values and a plan to packed indices, codebook and scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qqonnx.codebooks import (
    Codebook,
    Weights,
    as_scales,
    assign,
    distortion,
    extremes,
    fit,
    nearest,
    on_grid,
)
from qqonnx.encoding.packing import Indices, pack, storage_for
from qqonnx.encoding.stored import FLOAT16, CodebookWeight, RoundedWeight, digest
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.config import WeightPlan
    from qqonnx.model.select import Weight

NODE_BYTES = 300
"""Approximate size in the file of the decode nodes of one weight."""

PLANE_BYTES = 150
"""Approximate size in the file of the nodes of each further plane."""


def encode(plan: WeightPlan) -> CodebookWeight:
    """Choose the codebook and the indices of one weight.

    Raises:
        QqonnxError: a value is NaN or infinite; the message names the tensor.
    """
    values = np.ascontiguousarray(plan.weight.tensor.numpy())
    by_granularity = {"tensor": _by_tensor, "channel": _by_channel, "scale": _by_scale}
    if plan.grid is not None:
        by_granularity = {"scale": _by_scale_on_grid}
    try:
        indices, codebook, scales = by_granularity[plan.granularity](values, plan)
    except QqonnxError as error:
        raise QqonnxError(f"weight {plan.weight.name!r}: {error}") from error
    return stored_weight(
        plan.weight, indices, codebook, scales, method=plan.method, granularity=plan.granularity
    )


def stored_weight(
    weight: Weight,
    indices: Indices,
    codebook: Weights,
    scales: Weights | None,
    *,
    method: str,
    granularity: str,
) -> CodebookWeight:
    """Pack the indices of one weight and measure the error of the decoded values.

    Args:
        weight: the weight.
        indices: uint8, of the weight's shape.
        codebook: [k], or [channels, k] with granularity "channel"; in the weight's dtype, or int8.
        scales: [channels] in the weight's dtype or float16 with granularity "scale"; else None.
            With integer levels, float32.
        method: name of the codebook method.
        granularity: "tensor", "channel" or "scale".
    """
    axis = None if granularity == "tensor" else weight.channel_axis
    values = np.ascontiguousarray(weight.tensor.numpy())
    indices, codebook, counts = by_frequency(indices, codebook, axis)
    is_integer = codebook.dtype.kind in "iu"
    decoded = decode_values(indices, codebook, None if is_integer else scales, axis)
    approximation = decoded
    if is_integer:
        approximation = decode_values(indices, codebook.astype(np.float32), scales, axis)
    storage = storage_for(codebook.shape[-1])
    planes = pack(indices.reshape(-1), storage)
    fingerprint = digest(decoded)
    parts = [*planes, codebook]
    if scales is not None:
        # Nodes behind integers round their scales to 16 bits; see `qqonnx.codebooks.grid`.
        parts.append(scales.astype(np.float16) if is_integer else scales)
    return CodebookWeight(
        name=weight.name,
        shape=values.shape,
        dtype=ir.DataType.from_numpy(codebook.dtype) if is_integer else weight.tensor.dtype,
        method=method,
        granularity=granularity,
        levels=codebook.shape[-1],
        bits=storage.bits_per_weight,
        counts=counts,
        error=distortion(values, approximation),
        payload_bytes=sum(part.nbytes for part in parts),
        digest=lambda: fingerprint,
        channel_axis=axis,
        storage=storage,
        planes=planes,
        codebook=codebook,
        scales=scales,
    )


def by_frequency(
    indices: Indices, codebook: Weights, channel_axis: int | None
) -> tuple[Indices, Weights, NDArray[np.int64]]:
    """Sort the levels of each codebook by how often they occur, most frequent first.

    The decoded values and the size stay the same, but the file becomes smaller when a web server
    compresses it; `tools/bench_transfer.py` measures by how much.

    Args:
        indices: uint8, of the weight's shape.
        codebook: [k], or [channels, k] with a codebook per channel.
        channel_axis: axis of the channels; not used with one codebook.

    Returns:
        Indices and codebook in the new order, and the number of occurrences of each index,
        int64 [k].
    """
    levels = codebook.shape[-1]
    if codebook.ndim == 1:
        rows = indices[None]
    else:
        assert channel_axis is not None
        rows = np.moveaxis(indices, channel_axis, 0)
    renumbered, ordered = np.empty(rows.shape, np.uint8), np.empty_like(codebook)
    total = np.zeros(levels, np.int64)
    for row, before, after, target in zip(
        rows,
        codebook.reshape(-1, levels),
        ordered.reshape(-1, levels),
        renumbered,
        strict=True,
    ):
        counts = np.bincount(row.reshape(-1), minlength=levels)
        order = np.argsort(-counts, kind="stable")
        rank = np.empty(levels, np.uint8)
        rank[order] = np.arange(levels)
        target[...] = rank[row]
        after[:] = before[order]
        total += counts[order]
    if codebook.ndim == 1:
        return renumbered[0], ordered, total
    assert channel_axis is not None
    return np.ascontiguousarray(np.moveaxis(renumbered, 0, channel_axis)), ordered, total


def round_weight(weight: Weight, values: Weights | None = None) -> RoundedWeight | None:
    """Round a tensor to float16.

    Args:
        weight: the tensor.
        values: values to store instead of the tensor's, of the same shape.

    Returns:
        The rounded tensor; None if a value is not finite or overflows float16.
    """
    own = np.ascontiguousarray(weight.tensor.numpy())
    with np.errstate(over="ignore"):
        half = (own if values is None else values).astype(np.float16)
    if not np.isfinite(half).all():
        return None
    decoded = half.astype(own.dtype)
    fingerprint = digest(decoded)
    return RoundedWeight(
        name=weight.name,
        shape=half.shape,
        dtype=weight.tensor.dtype,
        method=FLOAT16,
        granularity="tensor",
        levels=0,
        bits=16,
        counts=np.zeros(0, np.int64),
        error=distortion(own, decoded),
        payload_bytes=half.nbytes,
        digest=lambda: fingerprint,
        values=half,
    )


def decode_values(
    indices: Indices, codebook: Weights, scales: Weights | None, channel_axis: int | None
) -> Weights:
    """Decode indices exactly as the decode nodes do.

    Args:
        indices: uint8, of the weight's shape.
        codebook: [k], or [channels, k] with a codebook per channel.
        scales: [channels] or None.
        channel_axis: axis of the channels; not used without scales and with one codebook.
    """
    if codebook.ndim == 2:
        assert channel_axis is not None
        rows = np.moveaxis(indices, channel_axis, 0)
        flat = rows.reshape(len(rows), -1).astype(np.intp)
        decoded = np.take_along_axis(codebook, flat, axis=1).reshape(rows.shape)
        return np.ascontiguousarray(np.moveaxis(decoded, 0, channel_axis))
    decoded = codebook[indices]
    if scales is not None:
        assert channel_axis is not None
        factors = broadcastable(scales, channel_axis, indices.ndim)
        if decoded.dtype.name == "bfloat16":
            # The nodes multiply in float32, see `multiplied`: a float16 scale is not rounded first.
            return (decoded.astype(np.float32) * factors.astype(np.float32)).astype(decoded.dtype)
        decoded *= factors.astype(decoded.dtype)
    return decoded


def broadcastable(scales: Weights, axis: int, rank: int) -> Weights:
    """Reshape scales [channels] to [1, ..., channels, ..., 1] with `rank` dimensions."""
    return scales.reshape([-1 if dim == axis else 1 for dim in range(rank)])


def _by_tensor(values: Weights, plan: WeightPlan) -> tuple[Indices, Weights, None]:
    codebook = fit(values.reshape(-1), plan.method, plan.levels)
    return _indices(values, codebook), codebook.levels.astype(values.dtype), None


def _by_channel(values: Weights, plan: WeightPlan) -> tuple[Indices, Weights, None]:
    axis = plan.weight.channel_axis
    assert axis is not None
    rows = np.moveaxis(values, axis, 0)
    indices = np.empty(rows.shape, np.uint8)
    codebooks = [fit(row.reshape(-1), plan.method, plan.levels) for row in rows]
    count = max(codebook.levels.size for codebook in codebooks)
    levels = np.zeros((len(rows), count), values.dtype)
    for channel, codebook in enumerate(codebooks):
        indices[channel] = _indices(np.ascontiguousarray(rows[channel]), codebook)
        levels[channel, : codebook.levels.size] = codebook.levels
        levels[channel, codebook.levels.size :] = codebook.levels[-1]
    return np.ascontiguousarray(np.moveaxis(indices, 0, axis)), levels, None


def _by_scale(values: Weights, plan: WeightPlan) -> tuple[Indices, Weights, Weights]:
    axis = plan.weight.channel_axis
    assert axis is not None
    extremes(values.reshape(-1))  # raises an error if a value is not finite
    others = tuple(other for other in range(values.ndim) if other != axis)
    largest = np.maximum(values.max(axis=others), -values.min(axis=others))
    scales = np.where(largest > 0, largest, 1).astype(values.dtype)
    factors = broadcastable(scales, axis, values.ndim)
    # Quotients are at most 1 and fit float32, but a scale of float64 can overflow it.
    wide = np.float64 if values.dtype == np.float64 else np.float32
    shares = np.divide(values, factors, dtype=wide).astype(np.float32, copy=False)
    importance = np.square(factors.astype(np.float64) / float(scales.max()))
    importance = np.broadcast_to(importance.astype(np.float32), values.shape)
    codebook = fit(
        shares.reshape(-1),
        plan.method,
        plan.levels,
        importance=importance.reshape(-1),
    )
    return _indices(shares, codebook), codebook.levels.astype(values.dtype), scales


def _by_scale_on_grid(values: Weights, plan: WeightPlan) -> tuple[Indices, Weights, Weights]:
    """Choose integer levels in proportion to those of the method."""
    assert plan.grid is not None
    axis = plan.weight.channel_axis
    assert axis is not None
    _, codebook, scales = _by_scale(values, plan)
    levels, step = on_grid(codebook.astype(np.float64), plan.grid)
    steps = as_scales(scales.astype(np.float32) * np.float32(step))
    shares = values / broadcastable(steps, axis, values.ndim)
    return _indices(shares, nearest(levels)), levels.astype(np.int8), steps


def _indices(values: Weights, codebook: Codebook) -> Indices:
    return assign(values.reshape(-1), codebook).reshape(values.shape)

"""A weight's values and its plan in; packed indices, codebook and scales out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks import (
    Codebook,
    Distortion,
    Weights,
    assign,
    distortion,
    extremes,
    fit,
)
from qqonnx.encoding.packing import Indices, Plane, Storage, pack, storage_for
from qqonnx.errors import QqonnxError

NODE_BYTES = 300
"""About what the decode nodes of one weight take in the file."""

PLANE_BYTES = 150
"""About what the nodes take that decode a further plane."""

FLOAT16 = "float16"
"""Recorded as the method of tensors that are rounded to float16 instead of quantized."""

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from qqonnx.config import WeightPlan


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight, ready to be written.

    Attributes:
        plan: what was asked.
        shape: shape of the weight.
        storage: layout of the packed indices.
        planes: the packed indices, in C order of the weight.
        codebook: [k] in the weight's dtype, or [channels, k] with granularity "channel".
        scales: [channels] in the weight's dtype or float16 with granularity "scale", otherwise
            None.
        counts: how often each index occurs, int64 [k]; with granularity "channel", in all
            channels together.
        error: error of the decoded values.
        digest: SHA-256 of the decoded values' bytes.
    """

    plan: WeightPlan
    shape: tuple[int, ...]
    storage: Storage
    planes: tuple[Plane, ...]
    codebook: Weights
    scales: Weights | None
    counts: NDArray[np.int64]
    error: Distortion
    digest: bytes

    @property
    def payload_bytes(self) -> int:
        """Bytes of indices, codebook and scales."""
        scales = self.scales.nbytes if self.scales is not None else 0
        return sum(plane.nbytes for plane in self.planes) + self.codebook.nbytes + scales


def quantize(plan: WeightPlan) -> QuantizedWeight:
    """Choose codebook and indices for one weight.

    Raises:
        QqonnxError: a value is NaN or infinite; the message names the tensor.
    """
    weight = plan.weight
    values = np.ascontiguousarray(weight.tensor.numpy())
    try:
        if plan.granularity == "channel":
            indices, codebook, scales = _by_channel(values, plan)
        elif plan.granularity == "scale":
            indices, codebook, scales = _by_scale(values, plan)
        else:
            indices, codebook, scales = _by_tensor(values, plan)
    except QqonnxError as error:
        raise QqonnxError(f"weight {weight.name!r}: {error}") from error
    return packed(plan, values, indices, codebook, scales)


def packed(
    plan: WeightPlan, values: Weights, indices: Indices, codebook: Weights, scales: Weights | None
) -> QuantizedWeight:
    """Pack the indices of one weight and measure what quantizing costs.

    Args:
        plan: what was asked.
        values: the weight.
        indices: uint8, of the weight's shape.
        codebook: [k], or [channels, k] with a codebook for each channel.
        scales: [channels] in the weight's dtype or float16, or None.
    """
    indices, codebook, counts = by_frequency(indices, codebook, plan.weight.channel_axis)
    decoded = decode(indices, codebook, scales, plan.weight.channel_axis)
    storage = storage_for(codebook.shape[-1])
    return QuantizedWeight(
        plan=plan,
        shape=values.shape,
        storage=storage,
        planes=pack(indices.reshape(-1), storage),
        codebook=codebook,
        scales=scales,
        counts=counts,
        error=distortion(values, decoded),
        digest=digest(decoded),
    )


def by_frequency(
    indices: Indices, codebook: Weights, channel_axis: int | None
) -> tuple[Indices, Weights, NDArray[np.int64]]:
    """Number the levels of each codebook by how often they occur, the most frequent first.

    What is stored is as large and decodes to the same, but general compressors, as web servers
    use them, make more of it: `tools/bench_transfer.py` measures how much.

    Args:
        indices: uint8, of the weight's shape.
        codebook: [k], or [channels, k] with a codebook for each channel.
        channel_axis: axis of the channels; not used with one codebook.

    Returns:
        Indices and codebook in the new order; how often each index occurs, int64 [k].
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


@dataclass(frozen=True)
class RoundedWeight:
    """One small tensor, such as a bias, that is stored as float16.

    Attributes:
        plan: what was asked; its method is `FLOAT16`.
        values: float16, of the weight's shape.
        dtype: the weight's dtype.
        error: error of the rounded values.
        digest: SHA-256 of the rounded values' bytes in the weight's dtype.
    """

    plan: WeightPlan
    values: Weights
    dtype: np.dtype[Any]
    error: Distortion
    digest: bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.values.shape

    @property
    def payload_bytes(self) -> int:
        """Bytes of the values."""
        return self.values.nbytes


def rounded(plan: WeightPlan, replaced: Weights | None = None) -> RoundedWeight | None:
    """Round a tensor to float16; None if a value is beyond float16 or not finite.

    Args:
        plan: which tensor.
        replaced: values to store instead of its own, of its shape.
    """
    values = np.ascontiguousarray(plan.weight.tensor.numpy())
    with np.errstate(over="ignore"):
        half = (values if replaced is None else replaced).astype(np.float16)
    if not np.isfinite(half).all():
        return None
    back = half.astype(values.dtype)
    return RoundedWeight(plan, half, values.dtype, distortion(values, back), digest(back))


def decode(
    indices: Indices, codebook: Weights, scales: Weights | None, channel_axis: int | None
) -> Weights:
    """Return the weight that indices stand for, as the decode nodes compute it.

    Args:
        indices: uint8, of the weight's shape.
        codebook: [k], or [channels, k] with a codebook for each channel.
        scales: [channels] or None.
        channel_axis: axis of the channels; not used without them.
    """
    if codebook.ndim == 2:
        assert channel_axis is not None
        channels = np.moveaxis(indices, channel_axis, 0).reshape(codebook.shape[0], -1)
        decoded = np.take_along_axis(codebook, channels.astype(np.intp), axis=1)
        moved = np.moveaxis(indices, channel_axis, 0).shape
        return np.ascontiguousarray(np.moveaxis(decoded.reshape(moved), 0, channel_axis))
    decoded = codebook[indices]
    if scales is not None:
        assert channel_axis is not None
        decoded *= broadcastable(scales.astype(decoded.dtype), channel_axis, indices.ndim)
    return decoded


def digest(values: Weights) -> bytes:
    """Return the SHA-256 of the values' bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).digest()


def broadcastable(scales: Weights, axis: int, rank: int) -> Weights:
    """Return scales [channels] in the shape [1, ..., channels, ..., 1] of `rank` dimensions."""
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
    extremes(values.reshape(-1))  # refuses what is not finite
    others = tuple(other for other in range(values.ndim) if other != axis)
    largest = np.maximum(values.max(axis=others), -values.min(axis=others))
    scales = np.where(largest > 0, largest, 1).astype(values.dtype)
    factors = broadcastable(scales, axis, values.ndim)
    # The quotients, at most 1, need float32 only; a float64 scale may be beyond it.
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


def _indices(values: Weights, codebook: Codebook) -> Indices:
    return assign(values.reshape(-1), codebook).reshape(values.shape)

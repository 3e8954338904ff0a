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
    index_entropy,
)
from qqonnx.errors import QqonnxError
from qqonnx.packing import Indices, Plane, Storage, pack, storage_for

if TYPE_CHECKING:
    from qqonnx.plan import WeightPlan


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight, ready to be written.

    Attributes:
        plan: what was asked.
        shape: shape of the weight.
        storage: layout of the packed indices.
        planes: the packed indices, in C order of the weight.
        codebook: [k] in the weight's dtype, or [channels, k] with granularity "channel".
        scales: [channels] in the weight's dtype with granularity "scale", otherwise None.
        levels_used: levels that occur; with granularity "channel", of the richest channel.
        entropy: index entropy in bits a weight.
        error: error of the decoded values.
        digest: SHA-256 of the decoded values' bytes.
    """

    plan: WeightPlan
    shape: tuple[int, ...]
    storage: Storage
    planes: tuple[Plane, ...]
    codebook: Weights
    scales: Weights | None
    levels_used: int
    entropy: float
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
    decoded = decode(indices, codebook, scales, weight.channel_axis)
    counts = np.bincount(indices.reshape(-1), minlength=codebook.shape[-1])
    storage = storage_for(codebook.shape[-1])
    return QuantizedWeight(
        plan=plan,
        shape=values.shape,
        storage=storage,
        planes=pack(indices.reshape(-1), storage),
        codebook=codebook,
        scales=scales,
        levels_used=int(np.count_nonzero(counts)),
        entropy=index_entropy(counts),
        error=distortion(values, decoded),
        digest=digest(decoded),
    )


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
        decoded *= broadcastable(scales, channel_axis, indices.ndim)
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

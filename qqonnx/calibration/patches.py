"""The patches of activations that the rows of a weight's matrix are multiplied with."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.layers import Layer

    FloatArray = NDArray[np.float32]


def patches(
    layer: Layer,
    activation: FloatArray,
    max_positions: int,
    random: np.random.Generator,
    mask: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Return the vectors that the rows of the weight's matrix are multiplied with, as columns.

    Args:
        layer: the layer.
        activation: input of the layer, float32 [samples, ...].
        max_positions: largest number of positions per sample; if there are more, a random subset
            is used, the same one for all samples.
        random: random generator.
        mask: which positions are not padding, bool [samples, positions]; it counts if the
            activation is [samples, positions, columns].

    Returns:
        float32 [groups, columns, samples x positions].
    """
    if layer.operator == "RNN" and layer.groups > 1:
        # [steps, directions, batch, columns]
        states = activation.transpose(1, 3, 0, 2).reshape(layer.groups, layer.columns, -1)
        return np.asarray(
            states[:, :, _positions(states.shape[2], max_positions * len(activation), random)]
        )
    if layer.operator == "ConvTranspose":
        activation = _with_zeros(activation, layer.strides)
        layer = replace(layer, operator="Conv", strides=(1,) * len(layer.strides))
        shape = (layer.shape[1] * layer.groups, layer.shape[0] // layer.groups, *layer.shape[2:])
        layer = replace(layer, shape=shape)
    if layer.operator != "Conv":
        rows = activation.reshape(activation.shape[0], -1, layer.columns)
        positions = _positions(rows.shape[1], max_positions, random)
        chosen = rows[:, positions]
        if mask is not None and activation.ndim == 3 and activation.shape[:2] == mask.shape:
            chosen = chosen[mask[:, positions]]
        return np.asarray(chosen.reshape(-1, layer.columns).T[None])
    kernel = layer.shape[2:]
    begins, ends = _padding(layer, activation.shape[2:])
    if any(begins) or any(ends):
        activation = _padded(activation, begins, ends)
    size = activation.shape[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilations, kernel, strict=True)]
    output = [
        (length - r) // stride + 1
        for length, r, stride in zip(size, reach, layer.strides, strict=True)
    ]
    corners = np.unravel_index(_positions(prod(output), max_positions, random), output)
    offsets = np.unravel_index(np.arange(prod(kernel)), kernel)
    coordinates = tuple(
        offset[:, None] * dilation + corner[None, :] * stride
        for corner, offset, stride, dilation in zip(
            corners, offsets, layer.strides, layer.dilations, strict=True
        )
    )
    samples, channels = activation.shape[:2]
    taken = np.ravel_multi_index(coordinates, size)
    windows = activation.reshape(samples, channels, -1).take(taken.reshape(-1), axis=2)
    columns = windows.reshape(samples, layer.groups, layer.columns, -1).transpose(1, 2, 0, 3)
    return np.asarray(columns.reshape(layer.groups, layer.columns, -1))


def _positions(count: int, max_positions: int, random: np.random.Generator) -> NDArray[np.intp]:
    if count <= max_positions:
        return np.arange(count)
    return np.sort(random.choice(count, max_positions, replace=False))


def _with_zeros(activation: FloatArray, strides: Sequence[int]) -> FloatArray:
    """Return an input [samples, channels, ...] with `stride` - 1 zeros between neighbors."""
    sizes = [
        (size - 1) * stride + 1 for size, stride in zip(activation.shape[2:], strides, strict=True)
    ]
    spread = np.zeros((*activation.shape[:2], *sizes), np.float32)
    places: Any = (..., *(slice(None, None, stride) for stride in strides))
    spread[places] = activation
    return spread


def _padded(activation: FloatArray, begins: Sequence[int], ends: Sequence[int]) -> FloatArray:
    """Return an input with zeros around it, or cut off where the padding is negative."""
    sides = [(max(begin, 0), max(end, 0)) for begin, end in zip(begins, ends, strict=True)]
    padded = np.pad(activation, [(0, 0), (0, 0), *sides])
    kept: Any = (
        ...,
        *(
            slice(max(-begin, 0), size - max(-end, 0))
            for begin, end, size in zip(begins, ends, padded.shape[2:], strict=True)
        ),
    )
    return np.asarray(padded[kept])


def _padding(layer: Layer, size: Sequence[int]) -> tuple[list[int], list[int]]:
    spatial = len(layer.strides)
    if not layer.same:
        return list(layer.pads[:spatial]), list(layer.pads[spatial:])
    begins, ends = [], []
    for axis in range(spatial):
        reach = layer.dilations[axis] * (layer.shape[2 + axis] - 1) + 1
        steps = -(-size[axis] // layer.strides[axis])
        missing = max((steps - 1) * layer.strides[axis] + reach - size[axis], 0)
        small, large = missing // 2, missing - missing // 2
        begins.append(small if layer.same == "SAME_UPPER" else large)
        ends.append(large if layer.same == "SAME_UPPER" else small)
    return begins, ends

"""Synthetic photographs in the range that a model expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.synthetic.generators import dead_leaves
from qqonnx.calibration.synthetic.kinds import (
    channel_axis,
    constant_of,
    first_layer,
    input_range,
    readers,
)
from qqonnx.inputs.preprocessing import PREPROCESSING_KEY, from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx_ir as ir
    from numpy.typing import NDArray

    Scaling = Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """From images [channels, height, width] with values in [0, 1] to the values of an input."""

PHOTO_MEAN = (0.485, 0.456, 0.406)
PHOTO_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of photographs; their source is ImageNet."""

_CLEARLY = 0.8
"""Share of the divergence of standardized photographs that another range must stay below."""

_PATCHES = 2000


def image_scaling(metadata: Mapping[str, str], value: ir.Value) -> Scaling:
    """Return how photographs become an input.

    The model's metadata say it; or its first arithmetic, such as a division by 255 or a
    BatchNormalization; or the range for which its first convolution gives values of about mean 0
    and variance 1, or those of the BatchNormalization that follows. Standardized photographs are
    the default.
    """
    axis = channel_axis(value)
    assert axis is not None
    assert value.shape is not None
    channels = value.shape[axis]
    assert isinstance(channels, int)
    if PREPROCESSING_KEY in metadata:
        preprocessing = from_json(metadata[PREPROCESSING_KEY])
        if len(preprocessing.mean) == channels:
            return _affine(1, preprocessing.mean, preprocessing.std)
    mean, std = (_by_channel(entry, channels) for entry in (PHOTO_MEAN, PHOTO_STD))
    known = input_range(value)
    if known is not None and known.exact:
        factor = known.std / std
        return _affine(1, mean - known.mean / factor, 1 / factor)
    if known is not None:
        return _affine(255 if max(np.abs(known.mean).max(), known.std.max()) > 4 else 1)
    return _likely_scaling(value, channels, _affine(1, mean, std), mean)


def _likely_scaling(
    value: ir.Value, channels: int, standardized: Scaling, mean: NDArray[np.float64]
) -> Scaling:
    layer = first_layer(value)
    if layer is None or layer.op_type != "Conv" or layer.attributes.get_int("group", 1) != 1:
        return standardized
    weight, *biases = (constant_of(entry) for entry in layer.inputs[1:])
    if weight is None or weight.ndim != 4 or weight.shape[1] % channels:
        return standardized
    # Space-to-depth puts neighboring pixels, which are almost equal, into further channels.
    filters = weight.astype(np.float64)
    filters = filters.reshape(len(filters), -1, channels, *filters.shape[2:]).sum(axis=1)
    bias = biases[0] if biases and biases[0] is not None else np.zeros(len(filters))
    expected = _expected(layer, len(filters))
    best, least = standardized, np.inf
    others = (_affine(1), _affine(1, (0.5,), (0.5,)), _affine(255), _affine(255, 255 * mean))
    for scaling in (standardized, *others):
        divergence = _divergence(scaling, filters, bias, *expected)
        if divergence < least:
            best, least = scaling, divergence
        if scaling is standardized:
            least *= _CLEARLY
    return best


def _expected(layer: ir.Node, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance of the channels of a layer's output."""
    following = list(readers(layer.outputs[0]))
    if len(following) == 1 and following[0][0].op_type == "BatchNormalization":
        mean, variance = (constant_of(entry) for entry in following[0][0].inputs[3:5])
        if mean is not None and variance is not None:
            return mean.astype(np.float64), np.maximum(variance.astype(np.float64), 1e-12)
    return np.zeros(channels), np.ones(channels)


def _divergence(
    scaling: Scaling,
    filters: NDArray[np.float64],
    bias: NDArray[np.float64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> float:
    """Return the divergence of a layer's outputs from normal distributions, for photographs."""
    random = np.random.default_rng(0)
    channels, height, width = filters.shape[1:]
    side = 64 + max(height, width)
    image = scaling(dead_leaves(side, side, channels, random))
    rows, columns = (random.integers(0, 64, _PATCHES) for _ in range(2))
    patches = np.stack(
        [image[:, r : r + height, c : c + width] for r, c in zip(rows, columns, strict=True)]
    )
    outputs = patches.reshape(_PATCHES, -1) @ filters.reshape(len(filters), -1).T + bias
    spread = np.maximum(outputs.var(axis=0), 1e-12) / variance
    shift = np.square(outputs.mean(axis=0) - mean) / variance
    # A filter that training switched off says nothing, so that the median counts.
    return float(np.median(spread + shift - 1 - np.log(spread)) / 2)


def _affine(factor: float, mean: Any = (0.0,), std: Any = (1.0,)) -> Scaling:
    """Return the scaling (factor * image - mean) / std, with one mean and std for each channel."""
    shift, width = (np.asarray(entry, np.float32).reshape(-1, 1, 1) for entry in (mean, std))
    return lambda image: (np.float32(factor) * image - shift) / width


def _by_channel(values: tuple[float, ...], channels: int) -> NDArray[np.float64]:
    return np.array(values if channels == len(values) else [np.mean(values)] * channels)

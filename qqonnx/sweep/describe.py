"""Descriptions of stored weights: cost, error, and histogram with levels."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import distortion
from qqonnx.encoding.encode import broadcastable
from qqonnx.encoding.read import read as read_stored
from qqonnx.encoding.stored import CodebookWeight
from qqonnx.model.load import load, read
from qqonnx.model.scopes import tensor_of
from qqonnx.model.select import select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from qqonnx.compression.results import WeightReport
    from qqonnx.model.select import Weight
    from qqonnx.sweep.sources import Source

HISTOGRAMS = 3
"""Number of weights with a histogram; the largest are chosen."""

BINS = 60


@lru_cache(maxsize=2)
def size_and_squares(model: Source) -> tuple[int, float]:
    """Return the number of values in all weights of a float model, and the sum of their squares."""
    size, squares = 0, 0.0
    for weight in select(load(model.path))[0]:
        values = weight.tensor.numpy().astype(np.float64)
        size += values.size
        squares += float(np.square(values).sum())
    return size, squares


def error_of_codebooks(model: Source, weights: Sequence[WeightReport]) -> float:
    """Return ||decoded - weights|| / ||weights|| over all weights; skipped ones have no error."""
    squared = sum(entry.l2 * prod(entry.shape) for entry in weights)
    return _relative(squared, model)


def error_of_floats(model: Source, path: Path) -> float | None:
    """Return ||stored - weights|| / ||weights|| for a file of ONNX Runtime's converters.

    The converters name tensors NAME for floats; NAME_quantized, NAME_scale and NAME_zero_point for
    integers. The result is None if the tensors of a weight are missing.
    """
    stored = read(path).graph.initializers
    arrays = {name: tensor_of(value).numpy() for name, value in stored.items() if value.const_value}
    squared = 0.0
    for weight in select(load(model.path))[0]:
        values = weight.tensor.numpy()
        decoded = _dequantized(weight, arrays)
        if decoded is None or decoded.shape != values.shape:
            return None
        squared += distortion(values, decoded).l2 * values.size
    return _relative(squared, model)


def layers_of(weights: Sequence[WeightReport]) -> list[dict[str, Any]]:
    """Return each weight's cost for JSON, in the model's order."""
    return [
        {
            "name": entry.name,
            "shape": list(entry.shape),
            "bits": entry.bits,
            "levels": entry.levels,
            "weights": prod(entry.shape),
            "sqnr": entry.sqnr if math.isfinite(entry.sqnr) else None,
            "entropy": entry.entropy,
            "bytes": entry.bytes_after,
        }
        for entry in weights
    ]


def entropy_of(weights: Sequence[WeightReport]) -> float:
    """Return the index entropy of all weights together, in bits per weight."""
    total = sum(prod(entry.shape) for entry in weights)
    return sum(entry.entropy * prod(entry.shape) for entry in weights) / total


def histograms_of(model: Source, path: Path) -> list[dict[str, Any]]:
    """Return histograms of the largest weights, with their levels, for JSON.

    With a scale per channel, values are divided by the scale of their channel. With a codebook per
    channel, only the first channel is shown. The histogram's name says so.
    """
    originals = {weight.name: weight for weight in select(load(model.path))[0]}
    stored = [
        weight
        for weight in read_stored(read(path))
        if isinstance(weight, CodebookWeight) and weight.name in originals
    ]
    largest = sorted(stored, key=lambda weight: -prod(weight.shape))[:HISTOGRAMS]
    return [_histogram(originals[weight.name], weight) for weight in largest]


def _histogram(original: Weight, stored: CodebookWeight) -> dict[str, Any]:
    values = original.tensor.numpy().astype(np.float64)
    name, axis, levels = stored.name, original.channel_axis, stored.codebook
    if stored.scales is not None:
        assert axis is not None
        values = values / broadcastable(stored.scales.astype(np.float64), axis, values.ndim)
        name = f"{name} / channel's scale"
    elif levels.ndim == 2:
        assert axis is not None
        values, levels = np.moveaxis(values, axis, 0)[0], levels[0]
        name = f"{name}, first channel"
    counts, edges = np.histogram(values, bins=BINS)
    return {
        "name": name,
        "edges": _rounded(edges),
        "counts": counts.tolist(),
        "levels": _rounded(np.unique(levels.astype(np.float64))),
    }


def _rounded(values: NDArray[np.float64]) -> list[float]:
    """Return numbers with five significant digits."""
    return [float(f"{value:.5g}") for value in values]


def _relative(squared: float, model: Source) -> float:
    _, squares = size_and_squares(model)
    return math.sqrt(squared / squares) if squares else 0.0


def _dequantized(weight: Weight, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    name = weight.name
    if name in arrays:
        return arrays[name]
    # quantize_dynamic replaces Gemm with MatMul.
    transposed = f"{name}_Transposed"
    if f"{transposed}_quantized" in arrays:
        decoded = _dequantized(replace(weight, name=transposed), arrays)
        return None if decoded is None else np.ascontiguousarray(decoded.T)
    integers, scale = arrays.get(f"{name}_quantized"), arrays.get(f"{name}_scale")
    if integers is None or scale is None:
        return None
    zero = arrays.get(f"{name}_zero_point", np.zeros_like(scale, integers.dtype))
    if scale.size > 1:
        if weight.channel_axis is None or scale.size != integers.shape[weight.channel_axis]:
            return None
        scale, zero = (
            broadcastable(array, weight.channel_axis, integers.ndim) for array in (scale, zero)
        )
    return np.asarray((integers.astype(np.float64) - zero.astype(np.float64)) * scale)

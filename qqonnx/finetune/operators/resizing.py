"""Resize: nearest, linear and cubic, one axis after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from qqonnx.finetune.operators.operator import Attributes, Operator

_NEAREST: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _resize(
    attributes: Attributes,
    x: Tensor,
    _region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    if attributes.get("antialias", 0):
        raise NotImplementedError("antialias")
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError("keep_aspect_ratio_policy")
    mode, dims = attributes.get("mode", "nearest"), attributes.get("axes", range(x.ndim))
    if scales is not None and scales.numel():
        factors = scales.tolist()
        lengths = [int(x.shape[dim] * factor) for dim, factor in zip(dims, factors, strict=True)]
    else:
        assert sizes is not None
        lengths = sizes.tolist()
        factors = [length / x.shape[dim] for dim, length in zip(dims, lengths, strict=True)]
    for dim, length, factor in zip(dims, lengths, factors, strict=True):
        if factor == 1:
            continue
        size = x.shape[dim]
        positions = _positions(attributes, size, length, factor)
        if mode == "nearest":
            rounded = _NEAREST[attributes.get("nearest_mode", "round_prefer_floor")](positions)
            indices = np.clip(rounded, 0, size - 1).astype(np.int64)
            x = x.index_select(dim, torch.from_numpy(indices))
        else:
            weights = torch.from_numpy(_weights(attributes, mode, positions, size)).to(x.dtype)
            x = torch.matmul(x.movedim(dim, -1), weights.T).movedim(-1, dim)
    return x


def _positions(attributes: Attributes, size: int, length: int, factor: float) -> NDArray[Any]:
    """Return the position of each of `length` outputs in the input: float64 [length]."""
    mode = attributes.get("coordinate_transformation_mode", "half_pixel")
    outputs = np.arange(length, dtype=np.float64)
    if mode == "asymmetric":
        return outputs / factor
    if mode == "align_corners":
        return outputs * ((size - 1) / (length - 1)) if length > 1 else outputs
    if mode == "pytorch_half_pixel" and length == 1:
        return outputs
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (outputs + 0.5) / factor - 0.5
    if mode == "half_pixel_symmetric":
        offset = size / 2 * (1 - length / (factor * size))
        return offset + (outputs + 0.5) / factor - 0.5
    raise NotImplementedError(f"coordinate_transformation_mode {mode!r}")


def _weights(attributes: Attributes, mode: str, positions: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the weight of each input in each output: float64 [length, size]."""
    below = np.floor(positions)
    part = positions - below
    if mode == "linear":
        taps, shares = [0, 1], [1 - part, part]
    elif mode == "cubic":
        taps = [-1, 0, 1, 2]
        shares = _cubic(part, attributes.get("cubic_coeff_a", -0.75))
    else:
        raise NotImplementedError(f"mode {mode!r}")
    weights = np.zeros((len(positions), size))
    rows = np.arange(len(positions))
    for tap, share in zip(taps, shares, strict=True):
        column = (below + tap).astype(np.int64)
        inside = (column >= 0) & (column < size) | (not attributes.get("exclude_outside", 0))
        np.add.at(weights, (rows, np.clip(column, 0, size - 1)), share * inside)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _cubic(part: NDArray[Any], a: float) -> list[NDArray[Any]]:
    """Return the weights of the four nearest inputs (Keys 1981, eq. 15, with parameter a)."""

    def near(d: NDArray[Any]) -> NDArray[Any]:
        return np.polyval([a + 2, -(a + 3), 0, 1], d)

    def far(d: NDArray[Any]) -> NDArray[Any]:
        return np.polyval([a, -5 * a, 8 * a, -4 * a], d)

    return [far(1 + part), near(part), near(1 - part), far(2 - part)]


RESIZING: dict[str, Operator] = {"Resize": _resize}

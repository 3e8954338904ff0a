"""Operators that move, select and create elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qqonnx.finetune.operators.operator import DTYPES, plain, tensor_of

if TYPE_CHECKING:
    from qqonnx.finetune.operators.operator import Attributes, Operator


def _dropout(
    _: Attributes, x: Tensor, _ratio: Tensor | None = None, training: Tensor | None = None
) -> Tensor:
    if training is not None and bool(training):
        raise NotImplementedError("training mode")
    return x


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    if attributes["to"] not in DTYPES:
        raise NotImplementedError(f"data type {attributes['to']}")
    return x.to(DTYPES[attributes["to"]])


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not attributes.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = attributes.get("axes") if axes is None else axes.tolist()
    if chosen is None:
        return x.squeeze()
    dims = {axis % x.ndim for axis in chosen}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in dims])


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = attributes["axes"] if axes is None else axes.reshape(-1).tolist()
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    if sizes is not None:
        return tuple(torch.split(x, sizes.tolist(), axis))
    count = attributes["num_outputs"]
    return tuple(torch.split(x, -(-x.shape[axis] // count), axis))


def _slice(
    _: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    begin, end = starts.tolist(), ends.tolist()
    dims = list(range(len(begin))) if axes is None else axes.tolist()
    strides = [1] * len(begin) if steps is None else steps.tolist()
    for first, last, dim, step in zip(begin, end, dims, strides, strict=True):
        chosen = range(*slice(first, last, step).indices(x.shape[dim]))
        if step > 0:
            kept = slice(chosen.start, max(chosen.start, chosen.stop), step)
            index = (*[slice(None)] * (dim % x.ndim), kept)
            x = x[index]
        else:
            x = x.index_select(dim, torch.tensor(list(chosen), dtype=torch.int64))
    return x


def _gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.ndim
    chosen = _nonnegative(indices, x.shape[axis])
    picked = x.index_select(axis, chosen.reshape(-1))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _nonnegative(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def _gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0)
    return x.gather(axis, _nonnegative(indices, x.shape[axis]))


def _gather_nd(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if attributes.get("batch_dims", 0):
        raise NotImplementedError("batch_dims")
    return x[tuple(indices.long().unbind(-1))]


def _scatter_nd(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if attributes.get("reduction", "none") != "none":
        raise NotImplementedError(f"reduction {attributes['reduction']!r}")
    return x.index_put(tuple(indices.long().unbind(-1)), updates)


def _scatter_elements(
    attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor
) -> Tensor:
    if attributes.get("reduction", "none") != "none":
        raise NotImplementedError(f"reduction {attributes['reduction']!r}")
    axis = attributes.get("axis", 0)
    return x.scatter(axis, _nonnegative(indices, x.shape[axis]), updates)


def _shape(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[attributes.get("start", 0) : attributes.get("end")])


def _constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value = attributes.get("value")
    one = torch.zeros(1) if value is None else tensor_of(value)
    return one.expand(shape.tolist()) if shape.numel() else one.reshape(())


def _range(_: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _pad(
    attributes: Attributes,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    dims = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.tolist()]
    amounts = np.zeros((x.ndim, 2), np.int64)
    amounts[dims] = np.array(pads.tolist()).reshape(2, -1).T
    mode = attributes.get("mode", "constant")
    if mode == "constant":
        fill = 0 if value is None else value.item()
        return functional.pad(x, amounts[::-1].reshape(-1).tolist(), value=fill)
    # Pad by indexing each axis, then crop where a pad is negative.
    for dim, (begin, end) in enumerate(amounts.tolist()):
        if begin or end:
            grown = (max(begin, 0), max(end, 0))
            indices = np.pad(np.arange(x.shape[dim]), grown, mode=mode)
            kept = indices[max(-begin, 0) : len(indices) - max(-end, 0)]
            x = x.index_select(dim, torch.from_numpy(kept.copy()))
    return x


def _depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    block, (n, channels, height, width) = attributes["blocksize"], x.shape
    depth = channels // block**2
    if attributes.get("mode", "DCR") == "DCR":
        x = x.reshape(n, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, depth, height * block, width * block)


def _space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    block, (n, channels, height, width) = attributes["blocksize"], x.shape
    x = x.reshape(n, channels, height // block, block, width // block, block)
    x = x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, channels * block**2, height // block, width // block)


def _trilu(attributes: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return x.triu(diagonal) if attributes.get("upper", 1) else x.tril(diagonal)


def _one_hot(attributes: Attributes, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    chosen = _nonnegative(indices, int(depth))
    hot = chosen.unsqueeze(-1) == torch.arange(int(depth))
    return torch.where(hot, values[1], values[0]).movedim(-1, attributes.get("axis", -1))


SHAPING: dict[str, Operator] = {
    "Cast": _cast,
    "CastLike": plain(lambda x, like: x.to(like.dtype)),
    "Concat": lambda attributes, *inputs: torch.cat(inputs, attributes["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Expand": plain(lambda x, shape: x.expand(np.broadcast_shapes(x.shape, tuple(shape.tolist())))),
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": plain(lambda x: x),
    "NonZero": plain(lambda x: x.nonzero().T),
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": plain(lambda x: torch.tensor(x.numel())),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": plain(lambda x, repeats: x.repeat(repeats.tolist())),
    "Transpose": lambda attributes, x: x.permute(list(attributes.get("perm", range(x.ndim)[::-1]))),
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}

"""Operators that reduce axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qqonnx.finetune.operators.operator import plain

if TYPE_CHECKING:
    from qqonnx.finetune.operators.operator import Attributes, Operator

Reduce = Callable[[Tensor, list[int], bool], Tensor]
"""(values, axes in ascending order, whether to keep them) -> the reduced values."""


def _reduction(reduce: Reduce) -> Operator:
    def operator(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = attributes.get("axes", []) if axes is None else axes.tolist()
        if not chosen and attributes.get("noop_with_empty_axes", 0):
            return x
        dims = sorted(axis % x.ndim for axis in chosen) if chosen else list(range(x.ndim))
        return reduce(x, dims, bool(attributes.get("keepdims", 1))) if dims else x

    return operator


def _prod(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in reversed(dims):
        x = x.prod(dim, keepdim=keep)
    return x


def _argmax(attributes: Attributes, x: Tensor) -> Tensor:
    if attributes.get("select_last_index", 0):
        raise NotImplementedError("select_last_index")
    return x.argmax(attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1)))


def _cumsum(attributes: Attributes, x: Tensor, axis: Tensor) -> Tensor:
    dim = int(axis)
    reverse = attributes.get("reverse", 0)
    x = x.flip(dim) if reverse else x
    total = x.cumsum(dim, dtype=x.dtype)
    total = total - x if attributes.get("exclusive", 0) else total
    return total.flip(dim) if reverse else total


def _top_k(attributes: Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    largest = bool(attributes.get("largest", 1))
    values, indices = torch.topk(x, int(k), attributes.get("axis", -1), largest)
    return values, indices


REDUCTIONS: dict[str, Operator] = {
    "ArgMax": _argmax,
    "ArgMin": lambda attributes, x: _argmax(attributes, -x),
    "CumSum": _cumsum,
    "GlobalAveragePool": plain(lambda x: x.mean(list(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": plain(lambda x: x.amax(list(range(2, x.ndim)), keepdim=True)),
    "ReduceL1": _reduction(lambda x, dims, keep: x.abs().sum(dims, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, dims, keep: x.square().sum(dims, keepdim=keep).sqrt()),
    "ReduceLogSum": _reduction(lambda x, dims, keep: x.sum(dims, keepdim=keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, dims, keep: x.logsumexp(dims, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, dims, keep: x.amax(dims, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, dims, keep: x.mean(dims, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, dims, keep: x.amin(dims, keepdim=keep)),
    "ReduceProd": _reduction(_prod),
    "ReduceSum": _reduction(lambda x, dims, keep: x.sum(dims, keepdim=keep, dtype=x.dtype)),
    "ReduceSumSquare": _reduction(lambda x, dims, keep: x.square().sum(dims, keepdim=keep)),
    "TopK": _top_k,
}

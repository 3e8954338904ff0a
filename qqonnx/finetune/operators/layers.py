"""Convolution, pooling, normalization and matrix products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from qqonnx.finetune.operators.operator import plain

if TYPE_CHECKING:
    from qqonnx.finetune.operators.operator import Attributes, Operator

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_TRANSPOSE = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAX_POOL = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVG_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _window(
    attributes: Attributes, size: list[int], kernel: list[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return strides, dilations, and the padding before and after each spatial axis."""
    rank = len(kernel)
    strides = list(attributes.get("strides", [1] * rank))
    dilations = list(attributes.get("dilations", [1] * rank))
    automatic = attributes.get("auto_pad", "NOTSET")
    pads = list(attributes.get("pads", [0] * (2 * rank)))
    begin, end = pads[:rank], pads[rank:]
    if automatic == "VALID":
        begin, end = [0] * rank, [0] * rank
    elif automatic != "NOTSET":
        totals = [
            max((math.ceil(n / stride) - 1) * stride + (k - 1) * dilation + 1 - n, 0)
            for n, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True)
        ]
        begin, end = _halves(totals, upper=automatic == "SAME_UPPER")
    return strides, dilations, begin, end


def _halves(totals: list[int], *, upper: bool) -> tuple[list[int], list[int]]:
    """Split each padding in two halves; of an odd one, the end gets more with `upper`."""
    smaller = [total // 2 for total in totals]
    larger = [total - half for total, half in zip(totals, smaller, strict=True)]
    return (smaller, larger) if upper else (larger, smaller)


def _pad(x: Tensor, begin: list[int], end: list[int], value: float = 0.0) -> Tensor:
    """Pad the spatial axes, or crop them where the amount is negative."""
    amounts = [n for pair in zip(reversed(begin), reversed(end), strict=True) for n in pair]
    return functional.pad(x, amounts, value=value)


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    strides, dilations, begin, end = _window(attributes, list(x.shape[2:]), kernel)
    if begin != end:
        x, begin = _pad(x, begin, end), [0] * len(kernel)
    group = attributes.get("group", 1)
    return _CONV[len(kernel)](x, weight, bias, strides, begin, dilations, group)


def _conv_transpose(
    attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    kernel, size = list(weight.shape[2:]), list(x.shape[2:])
    strides, dilations, begin, end = _window({**attributes, "auto_pad": "NOTSET"}, size, kernel)
    extra = list(attributes.get("output_padding", [0] * len(kernel)))
    group = attributes.get("group", 1)
    whole = _CONV_TRANSPOSE[len(kernel)](x, weight, None, strides, groups=group, dilation=dilations)
    automatic = attributes.get("auto_pad", "NOTSET")
    wanted = attributes.get("output_shape")
    if wanted is None and automatic in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * stride for n, stride in zip(size, strides, strict=True)]
    if wanted is not None:
        spare = [
            n + more - out for n, more, out in zip(whole.shape[2:], extra, wanted, strict=True)
        ]
        begin, end = _halves(spare, upper=automatic == "SAME_UPPER")
    # No kernel reaches the output padding, so it holds only the bias.
    cropped = _pad(
        whole, [-n for n in begin], [more - n for more, n in zip(extra, end, strict=True)]
    )
    return cropped if bias is None else cropped + bias.reshape(-1, *[1] * len(kernel))


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = list(attributes["kernel_shape"])
    strides, dilations, begin, end = _window(attributes, list(x.shape[2:]), kernel)
    if begin != end or any(2 * n > k for n, k in zip(begin, kernel, strict=True)):
        x, begin = _pad(x, begin, end, -math.inf), [0] * len(kernel)
    ceil = bool(attributes.get("ceil_mode", 0))
    return _MAX_POOL[len(kernel)](x, kernel, strides, begin, dilations, ceil)


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = list(attributes["kernel_shape"])
    strides, dilations, begin, end = _window(attributes, list(x.shape[2:]), kernel)
    if any(dilation != 1 for dilation in dilations):
        raise NotImplementedError("dilation")
    pool, ceil = _AVG_POOL[len(kernel)], bool(attributes.get("ceil_mode", 0))
    counted = bool(attributes.get("count_include_pad", 0))
    if begin == end and all(2 * n <= k for n, k in zip(begin, kernel, strict=True)):
        return pool(x, kernel, strides, begin, ceil, counted)
    total = pool(_pad(x, begin, end), kernel, strides, 0, ceil)
    if counted:
        return total
    return total / pool(_pad(torch.ones_like(x[:1, :1]), begin, end), kernel, strides, 0, ceil)


def _batch_normalization(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if attributes.get("training_mode", 0):
        raise NotImplementedError("training mode")
    epsilon = attributes.get("epsilon", 1e-5)
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def _layer_normalization(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    shape, epsilon = x.shape[attributes.get("axis", -1) :], attributes.get("epsilon", 1e-5)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    normal = functional.layer_norm(x, shape, eps=epsilon) * scale
    return normal if bias is None else normal + bias


def _rms_normalization(attributes: Attributes, x: Tensor, scale: Tensor) -> Tensor:
    dims = list(range(x.ndim))[attributes.get("axis", -1) :]
    power = x.square().mean(dims, keepdim=True)
    return x * torch.rsqrt(power + attributes.get("epsilon", 1e-5)) * scale


def _instance_normalization(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    # PyTorch's instance_norm refuses inputs with a single position.
    groups = x.shape[1]
    return functional.group_norm(x, groups, scale, bias, attributes.get("epsilon", 1e-5))


def _group_normalization(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, channels = attributes["num_groups"], x.shape[1]
    # Opset 18 has one scale per group, opset 21 one per channel.
    if scale.numel() != channels:
        scale, bias = (t.repeat_interleave(channels // groups) for t in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, attributes.get("epsilon", 1e-5))


def _local_response(attributes: Attributes, x: Tensor) -> Tensor:
    size = attributes["size"]
    edges = [0, 0] * (x.ndim - 2) + [(size - 1) // 2, size // 2]
    power = functional.pad(x.square(), edges).unfold(1, size, 1).sum(-1)
    bias, alpha = attributes.get("bias", 1.0), attributes.get("alpha", 1e-4)
    return x / torch.pow(bias + alpha / size * power, attributes.get("beta", 0.75))


def _lp_normalization(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.normalize(x, attributes.get("p", 2), attributes.get("axis", -1))


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    a = a.T if attributes.get("transA", 0) else a
    b = b if attributes.get("transB", 0) else b.T
    if alpha == beta == 1 and (c is None or c.shape == b.shape[:1]):
        return functional.linear(a, b, c)
    product = alpha * functional.linear(a, b)
    return product if c is None else torch.add(product, c, alpha=beta)


LAYERS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": lambda attributes, *inputs: torch.einsum(attributes["equation"], *inputs),
    "Gemm": _gemm,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response,
    "LayerNormalization": _layer_normalization,
    "LpNormalization": _lp_normalization,
    "MatMul": plain(torch.matmul),
    "MaxPool": _max_pool,
    "RMSNormalization": _rms_normalization,
}

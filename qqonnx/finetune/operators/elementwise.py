"""Operators that work element by element."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from qqonnx.finetune.operators.operator import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from qqonnx.finetune.operators.operator import Attributes, Operator


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _attributes, *inputs: functools.reduce(function, inputs)


def _div(_: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _mod(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if attributes.get("fmod", 0) else torch.remainder(x, y)


def _pow(_: Attributes, x: Tensor, y: Tensor) -> Tensor:
    # In practice the exponent is one number, and a number is faster than a tensor.
    return torch.pow(x, y.item() if y.numel() == 1 and y.ndim <= x.ndim else y).to(x.dtype)


def _clip(
    _: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    bounds = [None if bound is None else bound.item() for bound in (low, high)]
    return x if bounds == [None, None] else torch.clamp(x, *bounds)


def _selu(attributes: Attributes, x: Tensor) -> Tensor:
    alpha = attributes.get("alpha", 1.6732632423543772)
    return functional.elu(x, alpha).mul(attributes.get("gamma", 1.0507009873554805))


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=attributes.get("approximate", "none"))


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5), 0, 1)


ELEMENTWISE: dict[str, Operator] = {
    "Abs": plain(torch.abs),
    "Add": plain(torch.add),
    "And": plain(torch.logical_and),
    "Ceil": plain(torch.ceil),
    "Celu": lambda attributes, x: functional.celu(x, attributes.get("alpha", 1.0)),
    "Clip": _clip,
    "Cos": plain(torch.cos),
    "Div": _div,
    "Elu": lambda attributes, x: functional.elu(x, attributes.get("alpha", 1.0)),
    "Equal": plain(torch.eq),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": lambda attributes, x: functional.gelu(
        x, approximate=attributes.get("approximate", "none")
    ),
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": plain(functional.hardswish),
    "IsNaN": plain(torch.isnan),
    "LeakyRelu": lambda attributes, x: functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Log": plain(torch.log),
    "LogSoftmax": lambda attributes, x: functional.log_softmax(x, attributes.get("axis", -1)),
    "Max": _variadic(torch.maximum),
    "Mean": lambda _, *inputs: functools.reduce(torch.add, inputs) / len(inputs),
    "Min": _variadic(torch.minimum),
    "Mish": plain(functional.mish),
    "Mod": _mod,
    "Mul": plain(torch.mul),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Or": plain(torch.logical_or),
    "PRelu": plain(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pow": _pow,
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(functional.relu),
    "Round": plain(torch.round),
    "Selu": _selu,
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Softmax": lambda attributes, x: functional.softmax(x, attributes.get("axis", -1)),
    "Softplus": plain(functional.softplus),
    "Softsign": plain(functional.softsign),
    "Sqrt": plain(torch.sqrt),
    "Sub": plain(torch.sub),
    "Sum": _variadic(torch.add),
    "Swish": lambda attributes, x: x * torch.sigmoid(attributes.get("alpha", 1.0) * x),
    "Tanh": plain(torch.tanh),
    "ThresholdedRelu": lambda attributes, x: torch.where(x > attributes.get("alpha", 1.0), x, 0),
    "Where": plain(torch.where),
    "Xor": plain(torch.logical_xor),
}

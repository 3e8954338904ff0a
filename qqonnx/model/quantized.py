"""Weights that a model stores as integers, because it was quantized before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qqonnx.model.scopes import INTEGER_TYPES, named_constants, tensor_of
from qqonnx.model.select import REARRANGING, Skipped, Weight, reason_to_stay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_NARROW = (
    *INTEGER_TYPES,
    *(ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2),
    *(ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ),
    *(ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ, ir.DataType.FLOAT4E2M1),
)

_WEIGHT_INPUTS: dict[str, dict[int, int | None]] = {
    "ConvInteger": {1: None},
    "DequantizeLinear": {0: 1},
    "DynamicQuantizeLSTM": {1: None, 2: None},
    "DynamicQuantizeMatMul": {1: 2},
    "GatherBlockQuantized": {0: None},
    "MatMulInteger": {0: None, 1: None},
    "MatMulIntegerToFloat": {0: None, 1: 3},
    "MatMulNBits": {1: None},
    "QAttention": {1: 4},
    "QEmbedLayerNormalization": {2: None, 3: None, 4: None},
    "QGemm": {3: 4},
    "QLinearConv": {3: 4},
    "QLinearMatMul": {0: None, 3: 4},
}
"""Inputs that are quantized weights, and the input that has the scales of each if there is one."""

_PACKED = {"GatherBlockQuantized", "MatMulNBits"}
"""Operators whose bytes can hold several integers each."""


def integer_weights(model: ir.Model) -> tuple[list[Weight], list[Skipped]]:
    """Return the integer weights of a quantized model, in graph order.

    Returns:
        The weights of bytes, which codebooks of integer levels can store; and those that have to
        stay as they are, with a reason.
    """
    weights, skipped = [], []
    for name, value, scope in named_constants(model, _NARROW):
        tensor = tensor_of(value)
        users = set(_users(value))
        operators = tuple(sorted(user for user in users if user is not None))
        if len(tensor.shape) < 2 or not operators:
            continue
        stays = tensor.dtype not in INTEGER_TYPES or None in users or _PACKED & set(operators)
        if stays or value.is_graph_output() or reason_to_stay(value, scope):
            reason = f"{tensor.dtype.name.lower()} already, for {' and '.join(operators)}"
            shape = tuple(tensor.shape.numpy())
            skipped.append(Skipped(name, shape, tensor.nbytes, reason))
        else:
            weights.append(Weight(name, value, scope, operators, None, is_bias=False))
    return weights, skipped


def steps_of(weight: Weight) -> NDArray[np.float64] | None:
    """Return the scales of an integer weight in a shape that can be multiplied with it.

    None if the weight has one scale, or if the scales are not found.
    """
    for node, index in weight.value.uses():
        scale_index = _WEIGHT_INPUTS.get(node.op_type, {}).get(index)
        if scale_index is None or len(node.inputs) <= scale_index:
            continue
        scales = node.inputs[scale_index]
        tensor = ir.convenience.get_const_tensor(scales) if scales is not None else None
        axis = _channel_axis(node)
        rank = len(weight.shape)
        if tensor is None or not -rank <= axis < rank:
            continue
        values = tensor.numpy().astype(np.float64)
        if values.shape == (weight.shape[axis],) and np.isfinite(values).all() and values.all():
            return values.reshape([-1 if d == axis % rank else 1 for d in range(rank)])
    return None


def _users(value: ir.Value) -> Iterator[str | None]:
    """Yield the operators that use a value as a quantized weight; None for any other use."""
    for node, index in value.uses():
        looked_up = node.op_type == "Gather" or node.op_type in REARRANGING - {"Cast"}
        if index in _WEIGHT_INPUTS.get(node.op_type, ()):
            yield node.op_type
        elif looked_up and node.domain == "" and index == 0:
            for output in node.outputs:
                yield from _users(output)
        else:
            yield None


def _channel_axis(node: ir.Node) -> int:
    """Return the axis of a weight that the scales of a quantized operator belong to."""
    if node.op_type == "DequantizeLinear":
        return node.attributes.get_int("axis", 1)
    if node.op_type == "QGemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 0 if node.op_type == "QLinearConv" else -1

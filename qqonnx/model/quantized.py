"""Weights that a model stores as integers, because it was quantized before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.model.scopes import scopes
from qqonnx.model.select import REARRANGING, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

_WEIGHT_INPUTS = {
    "ConvInteger": (1,),
    "DequantizeLinear": (0,),
    "DynamicQuantizeLSTM": (1, 2),
    "DynamicQuantizeMatMul": (1,),
    "GatherBlockQuantized": (0,),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "MatMulNBits": (1,),
    "QAttention": (1,),
    "QEmbedLayerNormalization": (2, 3, 4),
    "QGemm": (3,),
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
}
"""Inputs that are quantized weights, by operator."""

_INTEGERS = {
    *(ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4),
    *(ir.DataType.INT2, ir.DataType.UINT2),
}


def integer_weights(model: ir.Model) -> list[Skipped]:
    """Return the weights of a quantized model that are integers, in graph order."""
    found = []
    for scope in scopes(model):
        for value in scope.initializers.values() if isinstance(scope, ir.Graph) else ():
            tensor = value.const_value
            if tensor is None or tensor.dtype not in _INTEGERS or len(tensor.shape) < 2:
                continue
            operators = sorted(set(_operators(value)))
            if operators:
                reason = f"quantized already, for {' and '.join(operators)}"
                shape = tuple(tensor.shape.numpy())
                found.append(Skipped(value.name or "", shape, tensor.nbytes, reason))
    return found


def _operators(value: ir.Value) -> Iterator[str]:
    for node, index in value.uses():
        if index in _WEIGHT_INPUTS.get(node.op_type, ()):
            yield node.op_type
        elif node.op_type in REARRANGING and node.op_type != "Cast" and index == 0:
            for output in node.outputs:
                yield from _operators(output)

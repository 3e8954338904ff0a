"""Round the inputs of matrix products to uint8 with the range of each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.integer.layers import layers
from qqonnx.integer.record import write_bounds

if TYPE_CHECKING:
    from collections.abc import Collection


def round_dynamically(model: ir.Model, kept: Collection[str]) -> ir.Model:
    """Return a copy of a model that rounds the inputs of MatMul and Gemm layers.

    Each input passes DynamicQuantizeLinear and DequantizeLinear.

    Args:
        model: the float model.
        kept: names of weights whose layers keep their float inputs.
    """
    model = model.clone()
    rounded: dict[ir.Value, ir.Value] = {}
    for node in list(layers(model)):
        activation, weight = node.inputs[:2]
        assert activation is not None
        assert weight is not None
        if node.op_type == "Conv" or _name(weight) in kept:
            continue
        if activation not in rounded:
            parts = [ir.Value() for _ in range(3)]
            quantize = ir.node("DynamicQuantizeLinear", [activation], outputs=parts)
            restore = ir.node("DequantizeLinear", parts)
            model.graph.insert_before(node, [quantize, restore])
            rounded[activation] = restore.outputs[0]
        node.replace_input_with(0, rounded[activation])
    write_bounds(model, {})
    return model


def _name(weight: ir.Value) -> str:
    producer = weight.producer()
    value = producer.inputs[0] if producer is not None else weight
    return (value.name or "") if value is not None else ""

"""Undo integer execution: float weights, and activations that are not rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qqonnx.encoding.builder import Builder
from qqonnx.encoding.rewrite import fresh_names
from qqonnx.errors import QqonnxError
from qqonnx.integer.float_weights import (
    constant,
    float_weights,
    put_floats,
    replace_value,
    zero_point,
)
from qqonnx.integer.record import take_bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qqonnx.integer.record import Bounds

_INTEGER_OPERATORS = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QuantizeLinear",
}


def restore_floats(model: ir.Model, bounds: Mapping[str, Bounds]) -> None:
    """Make a model with rounded activations and plain integer weights a float model, in place.

    Weights become their integers times their scales, and activations are no longer rounded. A Relu
    or a Clip is put back where the range of an activation stood for it.

    Args:
        model: a model that `round_statically` or `round_dynamically` and `put_integers` made, or
            one that another program rounded in the same way.
        bounds: bounds of the clipped values; see `qqonnx.integer.record` and `ranges`.

    Raises:
        QqonnxError: integer operators are used in another way.
    """
    graph = model.graph
    builder = Builder(fresh_names(model), in_function=False)
    clipped: dict[ir.Value, ir.Value] = {}
    try:
        float_weights(model, lambda _: True)
        for node in list(graph):
            if node.op_type == "DequantizeLinear":
                _unrounded(graph, node, bounds, builder, clipped)
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise QqonnxError("its integer operators are not as qqonnx writes them") from error
    for value in builder.initializers:
        graph.register_initializer(value)
    RemoveUnusedNodesPass()(model)
    left = {node.op_type for node in graph.all_nodes()} & _INTEGER_OPERATORS
    if left:
        raise QqonnxError(f"its {min(left)} is not used as qqonnx uses it")


def without_rounding(model: ir.Model) -> ir.Model:
    """Return a copy of a model whose activations are not rounded.

    A model without rounded activations, or with integer operators of another kind, is returned
    itself. Where another program rounded a model, activations keep within the range of integers.
    """
    if not multiplies_integers(model):
        return model
    copy = model.clone()
    bounds = take_bounds(copy)
    try:
        restore_floats(copy, ranges(copy) if bounds is None else bounds)
    except QqonnxError:
        return model
    return copy


def multiplies_integers(model: ir.Model) -> bool:
    """Return whether a model has operators that round or multiply integers."""
    return bool({node.op_type for node in model.graph} & _INTEGER_OPERATORS)


def ranges(model: ir.Model) -> dict[str, Bounds]:
    """Return the smallest and the largest number that each QuantizeLinear of an activation gives.

    A quantizer removes the Relu or the Clip in front of it if the range says the same.
    """
    found: dict[str, Bounds] = {}
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value is None or value.producer() is None:
            continue
        scale, zero = constant(node.inputs[1]), zero_point(node, 2)
        kind = node.inputs[2].dtype if len(node.inputs) > 2 and node.inputs[2] else None
        if scale is None or zero is None or scale.size > 1:
            continue
        if kind not in (ir.DataType.UINT8, ir.DataType.INT8):
            continue
        ends = (0, 255) if kind == ir.DataType.UINT8 else (-128, 127)
        low, high = ((end - float(zero.reshape(()))) * float(scale.reshape(())) for end in ends)
        found[value.name or ""] = low, high
    return found


def _unrounded(
    graph: ir.Graph,
    node: ir.Node,
    bounds: Mapping[str, Bounds],
    builder: Builder,
    clipped: dict[ir.Value, ir.Value],
) -> None:
    """Let the users of a DequantizeLinear read floats: a constant, or what was rounded."""
    rounded = node.inputs[0]
    assert rounded is not None
    quantizer = rounded.producer()
    if quantizer is None:
        scales = constant(node.inputs[1])
        assert scales is not None
        assert [user for user, _ in rounded.uses()] == [node]
        axis = node.attributes.get_int("axis", 1)
        put_floats(rounded, scales, axis, zero_point(node, 2))
        source = rounded
    else:
        assert quantizer.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")
        before = quantizer.inputs[0]
        assert before is not None
        if before not in clipped:
            clipped[before] = _clipped(graph, before, bounds, builder)
        source = clipped[before]
    replace_value(graph, node.outputs[0], source)


def _clipped(
    graph: ir.Graph, value: ir.Value, bounds: Mapping[str, Bounds], builder: Builder
) -> ir.Value:
    """Return a value, within its bounds if it has some."""
    name = value.name or ""
    if name not in bounds:
        return value
    low, high = bounds[name]
    if (low, high) == (0, None):
        node = ir.node("Relu", [value], name="")
    else:
        ends = [
            None if end is None else builder.constant(np.array(end, np.float32), "c")
            for end in (low, high)
        ]
        node = ir.node("Clip", [value, *ends], name="")
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, node)
    return node.outputs[0]

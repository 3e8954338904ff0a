"""Undo integer execution: float weights, and activations that are not rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qqonnx.encoding.builder import Builder
from qqonnx.encoding.encode import broadcastable
from qqonnx.encoding.rewrite import fresh_names
from qqonnx.errors import QqonnxError
from qqonnx.integer.record import ROUNDED_KEY, take_bounds
from qqonnx.model.scopes import tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

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
        model: a model that `round_statically` or `round_dynamically` and `put_integers` made.
        bounds: bounds of the clipped values; see `qqonnx.integer.record`.

    Raises:
        QqonnxError: integer operators are used in another way.
    """
    graph = model.graph
    builder = Builder(fresh_names(model), in_function=False)
    try:
        for node in list(graph):
            if node.op_type == "MatMulInteger":
                _multiply_floats(graph, node)
        for node in list(graph):
            if node.op_type == "DequantizeLinear":
                _unrounded(graph, node, bounds, builder)
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise QqonnxError("its integer operators are not as qqonnx writes them") from error
    for value in builder.initializers:
        graph.register_initializer(value)
    RemoveUnusedNodesPass()(model)
    left = {node.op_type for node in graph.all_nodes()} & _INTEGER_OPERATORS
    if left:
        raise QqonnxError(f"its {min(left)} is not used as qqonnx uses it")


def without_rounding(model: ir.Model) -> ir.Model:
    """Return a copy of a model whose activations are not rounded; the model itself if none are.

    Raises:
        QqonnxError: integer operators are used in another way.
    """
    if ROUNDED_KEY not in model.metadata_props:
        return model
    copy = model.clone()
    restore_floats(copy, take_bounds(copy) or {})
    return copy


def _unrounded(
    graph: ir.Graph, node: ir.Node, bounds: Mapping[str, Bounds], builder: Builder
) -> None:
    """Let the users of a DequantizeLinear read floats: a constant, or what was rounded."""
    rounded = node.inputs[0]
    assert rounded is not None
    quantizer = rounded.producer()
    if quantizer is None:
        scales = node.inputs[1]
        assert scales is not None
        assert [user for user, _ in rounded.uses()] == [node]
        axis = node.attributes.get_int("axis", 1)
        _put_floats(rounded, _constant(scales), axis, _zero_point(node))
        source = rounded
    else:
        assert quantizer.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")
        before = quantizer.inputs[0]
        assert before is not None
        source = _clipped(graph, before, bounds, builder)
    _replace(graph, node.outputs[0], source)


def _multiply_floats(graph: ir.Graph, node: ir.Node) -> None:
    """Replace MatMulInteger, Cast and Mul by a MatMul of floats."""
    rounded, weight = node.inputs[:2]
    assert rounded is not None
    assert weight is not None
    quantizer = rounded.producer()
    assert quantizer is not None
    assert quantizer.op_type == "DynamicQuantizeLinear"
    ((cast, _),) = node.outputs[0].uses()
    ((product, _),) = cast.outputs[0].uses()
    factors = product.inputs[1]
    assert factors is not None
    both = factors.producer()
    assert both is not None
    scales = both.inputs[1]
    assert scales is not None
    axis = -1
    source: ir.Value = weight
    while (transpose := source.producer()) is not None:
        assert transpose.op_type == "Transpose"
        order = list(transpose.attributes.get_ints("perm", [1, 0]))
        axis = order[axis]
        source.type, before = ir.TensorType(ir.DataType.FLOAT), transpose.inputs[0]
        assert before is not None
        source = before
    if tensor_of(source).dtype == ir.DataType.INT8:
        _put_floats(source, _constant(scales), axis)
    multiply = ir.node("MatMul", [quantizer.inputs[0], weight], name="")
    graph.insert_before(product, multiply)
    _replace(graph, product.outputs[0], multiply.outputs[0])


def _put_floats(
    value: ir.Value, scales: NDArray[np.float32], axis: int, zero: NDArray[np.generic] | None = None
) -> None:
    """Replace the integers of an initializer by floats, which are computed when they are read."""
    integers = tensor_of(value)
    rank = len(integers.shape)
    if scales.ndim == 1:
        scales = broadcastable(scales, axis % rank, rank)
    name = value.name

    def evaluate() -> ir.TensorProtocol:
        numbers = integers.numpy().astype(np.float32)
        if zero is not None:
            numbers -= zero.astype(np.float32)
        return ir.Tensor(numbers * scales, name=name)

    kind = ir.DataType.FLOAT
    value.const_value = ir.LazyTensor(evaluate, kind, ir.Shape(integers.shape.numpy()), name=name)
    value.type = ir.TensorType(kind)


def _constant(value: ir.Value) -> NDArray[np.float32]:
    """Return what Cast, Mul and Split compute from constants."""
    producer = value.producer()
    if producer is None:
        return np.asarray(tensor_of(value).numpy()).astype(np.float32)
    assert producer.op_type in ("Cast", "Mul", "Split")
    entries = [entry for entry in producer.inputs if entry is not None]
    if producer.op_type == "Split":
        whole, sizes = entries
        ends = np.cumsum(tensor_of(sizes).numpy())
        return np.split(_constant(whole), ends)[list(producer.outputs).index(value)]
    parts = [_constant(entry) for entry in entries]
    return np.asarray(parts[0] if len(parts) == 1 else parts[0] * parts[1])


def _zero_point(node: ir.Node) -> NDArray[np.generic] | None:
    """Return the zero point of a DequantizeLinear; None without one, or if nodes compute zeros."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None or zero.producer() is not None:
        return None
    values = tensor_of(zero).numpy()
    assert values.ndim == 0
    return values


def _clipped(
    graph: ir.Graph, value: ir.Value, bounds: Mapping[str, Bounds], builder: Builder
) -> ir.Value:
    """Return a value, within its bounds if it has some."""
    name = value.name or ""
    if name not in bounds:
        return value
    for user, _ in value.uses():
        if user.op_type in ("Clip", "Relu"):
            return user.outputs[0]
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


def _replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let the users of a value read another one; an output of the model keeps its name."""
    if old.is_graph_output():
        producer = new.producer()
        if producer is None or new.is_graph_output():
            node = ir.node("Identity", [new], name="")
            user = old.producer()
            assert user is not None
            graph.insert_before(user, node)
            new = node.outputs[0]
        new.type, new.shape = old.type, old.shape
        name, old.name = old.name, None
        new.name = name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

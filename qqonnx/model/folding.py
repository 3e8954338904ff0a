"""Compute the weights that nodes compute from constants alone, as for weight normalization."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from qqonnx.errors import QqonnxError
from qqonnx.model.random import RANDOM_OPERATORS
from qqonnx.model.scopes import FLOAT_TYPES, Scope, ancestors, scopes, tensor_of
from qqonnx.model.select import REARRANGING, uses_as_weight
from qqonnx.model.session import open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

MAX_GROWTH = 1.1
"""Largest ratio of the elements of a folded weight to those of the constants that it replaces."""

MAX_INTERMEDIATE = 8
"""Largest ratio of the elements of a result on the way to those of the constants."""

_REARRANGING = {*REARRANGING, "Concat", "Constant"}
"""Operators that `qqonnx.model.select` looks through: what they give is no arithmetic."""

_STAYING = {*RANDOM_OPERATORS, "DequantizeLinear", "QuantizeLinear"}
"""Operators that are not folded: they draw numbers, or keep a weight small."""


def fold_weights(model: ir.Model) -> int:
    """Replace weights that nodes compute from constants by their values, in place.

    ONNX Runtime computes the values, with the kernels that it would use when it loads the model.
    A weight stays computed if it has more elements than the constants that it replaces, if its
    shape is not known, or if ONNX Runtime does not compute it.

    Returns:
        The number of weights that were folded.
    """
    constant = _constant_values(model)
    claimed: set[ir.Value] = set()
    folded = 0
    for value, scope in list(_computed_weights(model, constant)):
        nodes, sources = ancestors(value)
        replaced = {source for source in sources if _is_replaced(source, constant)} - claimed
        array = _folded(model, value, scope, nodes, sources, _elements(replaced))
        if array is not None:
            claimed |= replaced
            _put(value, scope, array)
            _remove_unused(nodes, sources)
            folded += 1
    return folded


def _constant_values(model: ir.Model) -> set[ir.Value]:
    """Return the values that are the same in every run and that ONNX Runtime could fold."""
    constant: set[ir.Value] = set()
    for scope in scopes(model):
        if isinstance(scope, ir.Graph):
            inputs = set(scope.inputs)
            constant |= {value for value in scope.initializers.values() if value not in inputs}
        for node in scope:
            inputs = {value for value in node.inputs if value is not None}
            if _is_foldable(model, node) and inputs <= constant:
                constant.update(node.outputs)
    return constant


def _is_foldable(model: ir.Model, node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") and node.op_identifier() not in model.functions:
        return False
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    fixed = all(not a.is_ref() and a.type not in graphs for a in node.attributes.values())
    has_source = node.op_type == "Constant" or any(value is not None for value in node.inputs)
    return fixed and has_source and node.op_type not in _STAYING


def _computed_weights(
    model: ir.Model, constant: Collection[ir.Value]
) -> Iterator[tuple[ir.Value, Scope]]:
    """Yield what is computed from constants and used as a weight, with its graph or function."""
    for scope in scopes(model):
        for node in scope:
            if node.op_type in _REARRANGING and node.domain == "":
                continue
            for value in node.outputs:
                if value in constant and any(
                    not use.is_bias and use.node.outputs[0] not in constant
                    for use in uses_as_weight(model, value, rank=0)
                ):
                    yield value, scope


def _is_replaced(source: ir.Value, constant: Collection[ir.Value]) -> bool:
    """Return whether a constant is a float tensor that only other constants are computed from."""
    return (
        tensor_of(source).dtype in FLOAT_TYPES
        and not source.is_graph_output()
        and all(node.outputs[0] in constant for node, _ in source.uses())
    )


def _elements(values: Collection[ir.Value]) -> int:
    return sum(tensor_of(value).size for value in values)


def _folded(
    model: ir.Model,
    value: ir.Value,
    scope: Scope,
    nodes: Sequence[ir.Node],
    sources: Sequence[ir.Value],
    replaced: int,
) -> Any:
    """Return the value as an array; None if it is to stay computed."""
    name = value.name or ""
    try:
        proto = _nodes_model(model, value, scope, nodes)
        light = onnx.ModelProto()
        light.CopyFrom(proto)
        for source in sources:
            if source.producer() is None:
                _add_source(light, source, with_values=tensor_of(source).size <= 64)
        if not _stays_small(light, name, replaced):
            return None
        for source in sources:
            if source.producer() is None:
                _add_source(proto, source, with_values=True)
        # Several threads could add up in another order.
        session = open_session(proto.SerializeToString(), threads=1, optimized=False)
        (array,) = run_session(session, {}, [name])
    except (QqonnxError, ValueError, TypeError, onnx.shape_inference.InferenceError):
        return None
    return array if array.dtype.kind == "f" else None


def _nodes_model(
    model: ir.Model, value: ir.Value, scope: Scope, nodes: Sequence[ir.Node]
) -> onnx.ModelProto:
    """Return a model of the nodes, without their constants, whose output is `value`."""
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 8))
    opsets = dict(model.opset_imports)
    if isinstance(scope, ir.Function):
        opsets |= scope.opset_imports
    for domain, version in opsets.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.graph.name = "folded"
    proto.graph.node.extend(ir.serde.serialize_node(node) for node in nodes)
    proto.functions.extend(ir.serde.serialize_function(f) for f in model.functions.values())
    proto.graph.output.append(onnx.ValueInfoProto(name=value.name))
    return proto


def _add_source(proto: onnx.ModelProto, source: ir.Value, *, with_values: bool) -> None:
    tensor = tensor_of(source)
    dims = tensor.shape.numpy()
    kind, name = tensor.dtype.value, source.name or ""
    if with_values:
        content = onnx.TensorProto(name=name, dims=dims, data_type=kind, raw_data=tensor.tobytes())
        proto.graph.initializer.append(content)
    else:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, dims))


def _stays_small(light: onnx.ModelProto, name: str, replaced: int) -> bool:
    """Return whether the output `name`, and all on the way to it, have few enough elements."""
    inferred = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        shape = value.type.tensor_type.shape
        if not value.type.tensor_type.HasField("shape") or not all(
            size.HasField("dim_value") for size in shape.dim
        ):
            return False
        limit = MAX_GROWTH if value.name == name else MAX_INTERMEDIATE
        if prod(size.dim_value for size in shape.dim) > limit * replaced:
            return False
    return True


def _put(value: ir.Value, scope: Scope, array: Any) -> None:
    """Replace a computed value by a constant of the same name."""
    name = value.name
    tensor = ir.Tensor(array, name=name)
    value.name = None
    if isinstance(scope, ir.Function):
        holder = ir.node("Constant", [], {"value": tensor})
        scope.insert_before(scope[0], holder)
        new = holder.outputs[0]
        new.name = name
    else:
        kind = ir.TensorType(tensor.dtype)
        new = ir.Value(name=name, type=kind, shape=tensor.shape, const_value=tensor)
        scope.register_initializer(new)
    ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)


def _remove_unused(nodes: Sequence[ir.Node], sources: Sequence[ir.Value]) -> None:
    for node in reversed(nodes):
        unused = not any(out.uses() or out.is_graph_output() for out in node.outputs)
        if node.graph is not None and unused:
            node.graph.remove(node, safe=True)
    for source in sources:
        graph = source.graph
        unused = not (source.uses() or source.is_graph_output() or source.is_graph_input())
        if unused and source.is_initializer() and isinstance(graph, ir.Graph):
            graph.initializers.pop(source.name or "", None)

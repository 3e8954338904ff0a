"""The scopes of a model (graph, subgraphs and functions) and their constants."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

FLOAT_TYPES = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.DOUBLE,
)

INTEGER_TYPES = (ir.DataType.INT8, ir.DataType.UINT8)
"""Types of weights that are integers."""

WEIGHT_TYPES = (*FLOAT_TYPES, *INTEGER_TYPES)
"""Types of decoded weights."""

Scope = ir.Graph | ir.Function


def remove_definition(value: ir.Value, scope: Scope) -> None:
    """Remove the node or the initializer that a constant without users comes from."""
    producer = value.producer()
    if producer is not None:
        scope.remove(producer)
    else:
        assert isinstance(scope, ir.Graph)
        del scope.initializers[value.name or ""]


def scopes(model: ir.Model) -> Iterator[Scope]:
    """Yield the graph, its subgraphs, and each function with its subgraphs."""
    yield model.graph
    yield from model.graph.subgraphs()
    for function in model.functions.values():
        yield function
        yield from function.subgraphs()


def constants_of(
    model: ir.Model, types: Collection[ir.DataType] = FLOAT_TYPES
) -> Iterator[tuple[ir.Value, Scope]]:
    """Yield initializers, and the outputs of Constant nodes with a tensor, of some types."""
    for scope in scopes(model):
        if isinstance(scope, ir.Graph):
            for value in list(scope.initializers.values()):
                if value.const_value is not None and value.const_value.dtype in types:
                    yield value, scope
        for node in scope:
            if node.op_type == "Constant" and node.domain == "":
                attribute = node.attributes.get("value")
                if (
                    attribute is not None
                    and not attribute.is_ref()
                    and attribute.type == ir.AttributeType.TENSOR
                    and attribute.as_tensor().dtype in types
                ):
                    yield node.outputs[0], scope


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """Return the tensor of an initializer or of a Constant node's output."""
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return tensor


def ancestors(value: ir.Value) -> tuple[tuple[ir.Node, ...], tuple[ir.Value, ...]]:
    """Return the nodes that compute `value`, in order, and the constants that they read.

    Constants are the values without a producer, and the outputs of Constant nodes.
    """
    nodes: dict[ir.Node, None] = {}
    constants: dict[ir.Value, None] = {}
    pending: list[tuple[ir.Value, bool]] = [(value, False)]
    while pending:
        current, expanded = pending.pop()
        producer = current.producer()
        if producer is None:
            constants[current] = None
        elif expanded:
            nodes[producer] = None
            if producer.op_type == "Constant":
                constants[current] = None
        elif producer not in nodes:
            pending.append((current, True))
            pending.extend((entry, False) for entry in producer.inputs if entry is not None)
    return tuple(nodes), tuple(constants)


def number_of(node: ir.Node, name: str, default: float) -> float | None:
    """Return the value of a number attribute.

    Args:
        node: the node.
        name: the attribute's name.
        default: value of a missing attribute, of the attribute's type (int or float).

    Returns:
        The number; None if the attribute has another type or is set by the enclosing function.
    """
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    value = attribute.value
    return value if isinstance(value, type(default)) else None


def value_names(model: ir.Model) -> Counter[str]:
    """Return the names of all values in the model, and how many values have each name."""
    names = Counter([""])
    for scope in scopes(model):
        initializers = scope.initializers.values() if isinstance(scope, ir.Graph) else ()
        names.update(value.name or "" for value in {*scope.inputs, *initializers})
        names.update(output.name or "" for node in scope for output in node.outputs)
    return names


def named_constants(
    model: ir.Model, types: Collection[ir.DataType] = FLOAT_TYPES
) -> Iterator[tuple[str, ir.Value, Scope]]:
    """Yield `constants_of` with a name that is unique in the model: (name, value, scope).

    Values in functions and sibling subgraphs may have the same name. Then a number is appended.
    """
    uses = value_names(model)
    for value, scope in constants_of(model, types):
        name = value.name or ""
        if uses[name] > 1 and scope is not model.graph:
            name = next(unique for n in count(2) if not uses[unique := f"{name}.{n}"])
            uses[name] = 1
        yield name, value, scope

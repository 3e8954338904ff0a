"""Find the decode nodes of a weight in a model, and run only these in ONNX Runtime.

A model may be malicious and only claim that some nodes decode a weight. So the operators and the
sizes of all results are checked before any node runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.scopes import WEIGHT_TYPES, Scope, ancestors, scopes
from qqonnx.model.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from numpy.typing import NDArray

DECODE_OPERATORS = frozenset(
    {"Add", "Cast", "Concat", "Constant", "Div", "Expand", "Gather", "GatherElements"}
    | {"MatMulInteger", "Mod", "Mul", "Range", "Reshape", "Slice", "Split", "Transpose"}
)
"""Operators of the nodes that `qqonnx.encoding.decode` and `qqonnx.encoding.stack` add."""

MAX_VALUES_PER_BYTE = 16
"""Largest number of values in any result per stored byte; one bit per weight needs 8."""

MAX_TABLE = 2**20
"""Number of additional values in a result: tables of digits do not grow with the weight."""


@dataclass(frozen=True)
class DecodeGraph:
    """The nodes that compute one weight.

    Attributes:
        name: the weight's name.
        value: output of the last decode node.
        scope: the graph or function that contains the nodes.
        nodes: the decode nodes in order; weights can share some of them.
        constants: the constant inputs of the nodes: packed indices, codebook, scales and shapes.
            In a function these are outputs of Constant nodes.
        stack: the stack that the weight is a part of; None for a weight of its own.
        start: first row of the weight in the stack.
        rows: number of rows of the weight in the stack.
    """

    name: str
    value: ir.Value
    scope: Scope
    nodes: tuple[ir.Node, ...]
    constants: tuple[ir.Value, ...]
    stack: DecodeGraph | None = None
    start: int = 0
    rows: int = 0

    @property
    def tensors(self) -> list[ir.TensorProtocol]:
        """The tensors of `constants`.

        Raises:
            QqonnxError: the decode nodes read a value that is not constant.
        """
        tensors = []
        for constant in self.constants:
            tensor = ir.convenience.get_const_tensor(constant)
            if tensor is None:
                raise QqonnxError(
                    f"weight {self.name!r}: its decode nodes read {constant.name!r}, "
                    "which is not constant"
                )
            tensors.append(tensor)
        return tensors

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape, inferred from the decode nodes.

        Raises:
            QqonnxError: the shape cannot be inferred, or a result has too many values for the
                stored bytes; see `MAX_VALUES_PER_BYTE`. (A few bytes can specify a huge Range.)
        """
        if self.stack is not None:
            return (self.rows, *self.stack.shape[1:])
        try:
            model = onnx.shape_inference.infer_shapes(_light_model(self), strict_mode=True)
        except Exception as error:
            raise QqonnxError(f"weight {self.name!r}: {first_line(error)}") from error
        limit = MAX_VALUES_PER_BYTE * sum(tensor.nbytes for tensor in self.tensors) + MAX_TABLE
        for value in (*model.graph.value_info, *model.graph.output):
            shape = value.type.tensor_type.shape.dim
            if not all(size.HasField("dim_value") for size in shape):
                raise QqonnxError(f"weight {self.name!r}: its shape cannot be inferred")
            if prod(size.dim_value for size in shape) > limit:
                raise QqonnxError(
                    f"weight {self.name!r}: decodes to far more values than are stored"
                )
        return tuple(size.dim_value for size in shape)

    @cached_property
    def decode(self) -> Callable[[], NDArray[Any]]:
        """A function that decodes once and keeps the result: for a stack, which has many users.

        Raises:
            QqonnxError: as for `decoder`.
        """
        return cache(decoder(self))

    @property
    def dtype(self) -> ir.DataType:
        """The weight's dtype: that of the last Cast, or of the codebook.

        Raises:
            QqonnxError: the decode nodes have no codebook.
        """
        if self.stack is not None:
            return self.stack.dtype
        value: ir.Value | None = self.value
        while value is not None and ir.convenience.get_const_tensor(value) is None:
            node = value.producer()
            if node is None:
                break
            if node.op_type == "Cast":
                try:
                    return ir.DataType(node.attributes.get_int("to", 0))
                except (TypeError, ValueError) as error:
                    raise QqonnxError(f"weight {self.name!r}: a Cast has no valid type") from error
            value = node.inputs[0] if node.inputs else None
        tensor = ir.convenience.get_const_tensor(value) if value is not None else None
        if tensor is None or tensor.dtype not in WEIGHT_TYPES:
            raise QqonnxError(f"weight {self.name!r}: its decode nodes have no codebook")
        return tensor.dtype


def decode_graphs(model: ir.Model, names: Collection[str]) -> Iterator[DecodeGraph]:
    """Yield the decode nodes of each weight in `names` that nodes compute.

    Raises:
        QqonnxError: a weight is computed by nodes that are not decode nodes.
    """
    pending = set(names)
    for scope in scopes(model):
        for node in scope:
            if node.op_type == "Constant":
                continue
            if node.op_type == "Split" and node.domain == "" and not _is_folded(node):
                yield from _parts(node, scope, pending)
                continue
            for output in node.outputs:
                if output.name is None or output.name not in pending:
                    continue
                pending.discard(output.name)
                yield _graph_of(output, scope, output.name)


def _graph_of(value: ir.Value, scope: Scope, name: str) -> DecodeGraph:
    nodes, constants = ancestors(value)
    foreign = {node.op_type for node in nodes if not _is_decode_node(node)}
    if foreign:
        raise QqonnxError(
            f"weight {name!r}: computed by {min(foreign)}, which is not a decode node"
        )
    return DecodeGraph(value.name or "", value, scope, nodes, constants)


def _is_folded(node: ir.Node) -> bool:
    """Return whether the stack that a Split divides is a plain tensor."""
    return not node.inputs or node.inputs[0] is None or node.inputs[0].producer() is None


def _parts(node: ir.Node, scope: Scope, pending: set[str]) -> Iterator[DecodeGraph]:
    """Yield the weights in `pending` that a Split takes from a stack; see `decode_graphs`."""
    names = [output.name for output in node.outputs if output.name in pending]
    if not names:
        return
    name = names[0] or ""
    source, sizes = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    tensor = ir.convenience.get_const_tensor(sizes) if sizes is not None else None
    assert source is not None
    stack = _graph_of(source, scope, name)
    rows = tensor.numpy().reshape(-1).tolist() if tensor is not None else []
    whole = len(rows) == len(node.outputs) and min(rows) >= 0 and sum(rows) == stack.shape[0]
    if not whole or node.attributes.get_int("axis", 0) != 0:
        raise QqonnxError(f"weight {name!r}: its stack is not divided as qqonnx divides it")
    start = 0
    constants = (*stack.constants, sizes) if sizes is not None else stack.constants
    for output, count in zip(node.outputs, rows, strict=True):
        if output.name in pending:
            pending.discard(output.name)
            nodes = (*stack.nodes, node)
            yield DecodeGraph(output.name, output, scope, nodes, constants, stack, start, count)
        start += count


def decoder(graph: DecodeGraph) -> Callable[[], NDArray[Any]]:
    """Return a function that runs the decode nodes and returns the weight.

    The function keeps the packed weight in memory, but not the model.

    Raises:
        QqonnxError: the nodes are damaged or decode to too many values; or, when the function is
            called, they do not run.
    """
    if graph.stack is not None:
        whole, start, stop = graph.stack.decode, graph.start, graph.start + graph.rows
        return lambda: whole()[start:stop]
    name, dtype, shape = graph.name, graph.dtype, graph.shape
    model = _nodes_model(graph)
    for constant, tensor in _stored(graph):
        model.graph.initializer.append(_serialized(constant, tensor))
    content = model.SerializeToString()

    def decode() -> NDArray[Any]:
        try:
            # Starting threads would take longer than decoding.
            session = open_session(content, threads=1, optimized=False)
            result = session.run(None, {})[0]
        except Exception as error:
            raise QqonnxError(f"weight {name!r}: its decode nodes do not run") from error
        return np.asarray(result).astype(dtype.numpy(), copy=False).reshape(shape)

    return decode


def _nodes_model(graph: DecodeGraph) -> onnx.ModelProto:
    """Return a model of the decode nodes, without tensors, whose output is the weight."""
    model = onnx.ModelProto(ir_version=8)
    model.opset_import.add(domain="", version=18)
    model.graph.name = "decode"
    try:
        model.graph.node.extend(ir.serde.serialize_node(node) for node in graph.nodes)
    except Exception as error:
        raise QqonnxError(f"weight {graph.name!r}: its decode nodes are damaged") from error
    output, dtype = graph.name, graph.dtype
    # numpy has no bfloat16; float32 represents it exactly.
    if dtype == ir.DataType.BFLOAT16:
        output, dtype = "decoded", ir.DataType.FLOAT
        cast = onnx.helper.make_node("Cast", [graph.name], [output], to=dtype.value)
        model.graph.node.append(cast)
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, dtype.value, None))
    return model


def _light_model(graph: DecodeGraph) -> onnx.ModelProto:
    """Return a model of the decode nodes for shape inference, without large tensors."""
    model = _nodes_model(graph)
    for name, tensor in _stored(graph):
        # Inference needs the values of shapes and bounds, which are short.
        if len(tensor.shape) <= 1 and tensor.size <= 64:
            model.graph.initializer.append(_serialized(name, tensor))
        else:
            dims = tensor.shape.numpy()
            entry = onnx.helper.make_tensor_value_info(name, tensor.dtype.value, dims)
            model.graph.input.append(entry)
    return model


def _stored(graph: DecodeGraph) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Yield the name and the tensor of each constant that is an initializer."""
    for constant, tensor in zip(graph.constants, graph.tensors, strict=True):
        if constant.producer() is None:
            yield constant.name or "", tensor


def _serialized(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    return onnx.TensorProto(
        name=name,
        dims=tensor.shape.numpy(),
        data_type=tensor.dtype.value,
        raw_data=tensor.tobytes(),
    )


def _is_decode_node(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in DECODE_OPERATORS

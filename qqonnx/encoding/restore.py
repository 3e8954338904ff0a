"""Find the decode nodes of compressed weights, run them, and put plain floats back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from qqonnx.encoding import matmulnbits
from qqonnx.encoding.rewrite import METADATA_KEY, expanded
from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.scopes import FLOAT_TYPES, Holder, holders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

DECODE_OPERATORS = frozenset(
    {"Add", "Cast", "Concat", "Constant", "Div", "Expand", "Gather", "GatherElements"}
    | {"MatMulInteger", "Mod", "Mul", "Range", "Reshape", "Slice"}
)
"""What `qqonnx.encoding.decode` writes; a file may claim that other nodes decode a weight."""

MAX_VALUES_PER_BYTE = 16
"""Most numbers that decoding may hold at once for each byte stored; one bit a weight takes 8."""

MAX_TABLE = 2**20
"""Numbers allowed beyond that: tables of digits do not grow with the weight."""


@dataclass(frozen=True)
class CompressedWeight:
    """A weight that decode nodes compute.

    Attributes:
        name: the weight's name.
        value: the last decode node's output.
        graph: the graph or function that holds the nodes.
        nodes: the decode nodes, in order; some may serve other weights as well.
        constants: what they read: packed indices, codebook, scales and shapes; in a function
            these are outputs of Constant nodes.
        record: what the metadata say of it: method, levels, granularity, l1, l2, sqnr.
    """

    name: str
    value: ir.Value
    graph: Holder
    nodes: tuple[ir.Node, ...]
    constants: tuple[ir.Value, ...]
    record: dict[str, Any]

    @property
    def tensors(self) -> list[ir.TensorProtocol]:
        """The tensors of `constants`.

        Raises:
            QqonnxError: the decode nodes depend on something that is no constant.
        """
        found = []
        for constant in self.constants:
            tensor = ir.convenience.get_const_tensor(constant)
            if tensor is None:
                raise QqonnxError(
                    f"weight {self.name!r}: its decoding depends on {constant.name!r}"
                )
            found.append(tensor)
        return found

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape, inferred from the decode nodes.

        Raises:
            QqonnxError: they do not tell, or give more than `MAX_VALUES_PER_BYTE` numbers for a
                byte stored: a few bytes can name a huge Range, or index a large table often.
        """
        try:
            model = onnx.shape_inference.infer_shapes(_light_model(self), strict_mode=True)
        except Exception as error:
            raise QqonnxError(f"weight {self.name!r}: {first_line(error)}") from error
        most = MAX_VALUES_PER_BYTE * sum(tensor.nbytes for tensor in self.tensors) + MAX_TABLE
        for value in (*model.graph.value_info, *model.graph.output):
            shape = value.type.tensor_type.shape.dim
            if not all(size.HasField("dim_value") for size in shape):
                raise QqonnxError(f"weight {self.name!r}: its decode nodes do not tell its shape")
            if prod(size.dim_value for size in shape) > most:
                raise QqonnxError(
                    f"weight {self.name!r}: decodes to far more numbers than are stored"
                )
        return tuple(size.dim_value for size in shape)

    @property
    def dtype(self) -> ir.DataType:
        """The weight's dtype: what the last Cast gives, or that of the codebook.

        Raises:
            QqonnxError: the decode nodes have no codebook.
        """
        value: ir.Value | None = self.value
        while value is not None and ir.convenience.get_const_tensor(value) is None:
            node = value.producer()
            if node is None:
                break
            if node.op_type == "Cast":
                try:
                    return ir.DataType(node.attributes.get_int("to", 0))
                except (TypeError, ValueError) as error:
                    raise QqonnxError(f"weight {self.name!r}: a Cast to no type") from error
            value = node.inputs[0] if node.inputs else None
        tensor = ir.convenience.get_const_tensor(value) if value is not None else None
        if tensor is None or tensor.dtype not in FLOAT_TYPES:
            raise QqonnxError(f"weight {self.name!r}: its decode nodes have no codebook")
        return tensor.dtype


def metadata(model: ir.Model) -> dict[str, Any]:
    """Return what compression recorded in the model: {"version": ..., "weights": {...}}.

    Raises:
        QqonnxError: the model was not compressed by qqonnx, or the record is damaged.
    """
    text = model.metadata_props.get(METADATA_KEY)
    if text is None:
        raise QqonnxError("not compressed by qqonnx: its metadata have no record of it")
    try:
        content = json.loads(text)
        common = content.get("common", {})
        # Files of version 0.1 have a full record, a dict, for each weight.
        records = {
            name: expanded(record, common) if isinstance(record, list) else record
            for name, record in content["weights"].items()
        }
        if not all(isinstance(record, dict) for record in records.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise QqonnxError(f"its metadata {METADATA_KEY!r} are damaged") from error
    return {**content, "weights": records}


def compressed_weights(model: ir.Model) -> tuple[list[CompressedWeight], list[str]]:
    """Return the compressed weights, and the names of those that are plain tensors again.

    Raises:
        QqonnxError: the model was not compressed by qqonnx, or other nodes than decode nodes
            compute a weight.
    """
    records = metadata(model)["weights"]
    blocked = matmulnbits.blocked_weights(model, records)
    found, inflated = [], set(records) - set(blocked)
    for holder in holders(model):
        for node in holder:
            for output in node.outputs:
                if (
                    output.name is not None
                    and output.name in inflated
                    and node.op_type != "Constant"
                ):
                    nodes, constants = _ancestors(output)
                    foreign = {n.op_type for n in nodes if not _decodes(n)}
                    if foreign:
                        raise QqonnxError(
                            f"weight {output.name!r}: computed by {min(foreign)}, "
                            "which is no decode node"
                        )
                    record = records[output.name]
                    found.append(
                        CompressedWeight(output.name, output, holder, nodes, constants, record)
                    )
                    inflated.discard(output.name)
    return found, sorted(inflated)


def decoded_tensor(weight: CompressedWeight) -> ir.TensorProtocol:
    """Run a weight's decode nodes in ONNX Runtime, as they stand in the model.

    Raises:
        QqonnxError: they do not run, or depend on the model's inputs.
    """
    return _decoder(weight)()


def _decode_model(weight: CompressedWeight) -> onnx.ModelProto:
    """Return a model of the decode nodes alone, with the weight as its output."""
    model = _nodes_model(weight)
    for name, tensor in _stored(weight):
        model.graph.initializer.append(_serialized(name, tensor))
    return model


def _nodes_model(weight: CompressedWeight) -> onnx.ModelProto:
    """Return `_decode_model` without the tensors."""
    model = onnx.ModelProto(ir_version=8)
    model.opset_import.add(domain="", version=18)
    model.graph.name = "decode"
    try:
        model.graph.node.extend(ir.serde.serialize_node(node) for node in weight.nodes)
    except Exception as error:
        raise QqonnxError(f"weight {weight.name!r}: its decode nodes are damaged") from error
    output, dtype = weight.name, weight.dtype
    # numpy has no bfloat16 of its own; as float32 nothing is lost.
    if dtype == ir.DataType.BFLOAT16:
        output, dtype = "decoded", ir.DataType.FLOAT
        cast = onnx.helper.make_node("Cast", [weight.name], [output], to=dtype.value)
        model.graph.node.append(cast)
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, dtype.value, None))
    return model


def _light_model(weight: CompressedWeight) -> onnx.ModelProto:
    """Return the decode nodes' model without its large tensors, enough to infer shapes."""
    model = _nodes_model(weight)
    for name, tensor in _stored(weight):
        # Shapes and bounds are short; inference needs to see them.
        if len(tensor.shape) <= 1 and tensor.size <= 64:
            model.graph.initializer.append(_serialized(name, tensor))
        else:
            dims = tensor.shape.numpy()
            entry = onnx.helper.make_tensor_value_info(name, tensor.dtype.value, dims)
            model.graph.input.append(entry)
    return model


def _stored(weight: CompressedWeight) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Yield name and tensor of each constant that is an initializer."""
    for constant, tensor in zip(weight.constants, weight.tensors, strict=True):
        if constant.producer() is None:
            yield constant.name or "", tensor


def _serialized(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    return onnx.TensorProto(
        name=name,
        dims=tensor.shape.numpy(),
        data_type=tensor.dtype.value,
        raw_data=tensor.tobytes(),
    )


def _decodes(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in DECODE_OPERATORS


def _decoder(
    weight: CompressedWeight, decoded: Callable[[str, NDArray[Any]], None] = lambda *_: None
) -> Callable[[], ir.TensorProtocol]:
    """Return a function that decodes the weight; it holds the packed weight, not the model."""
    name, dtype, shape = weight.name, weight.dtype, weight.shape
    text = _decode_model(weight).SerializeToString()

    def run() -> ir.TensorProtocol:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        # The work of a moment; starting threads for it would take longer.
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(text, options, providers=["CPUExecutionProvider"])
            result = session.run(None, {})[0]
        except Exception as error:
            raise QqonnxError(f"weight {name!r}: its decode nodes do not run") from error
        array = np.asarray(result).astype(dtype.numpy(), copy=False).reshape(shape)
        decoded(name, array)
        return ir.Tensor(array, dtype=dtype, name=name)

    return run


def blocked_weights(model: ir.Model) -> dict[str, matmulnbits.BlockedWeight]:
    """Return the weights that MatMulNBits nodes hold, by name.

    Raises:
        QqonnxError: the model was not compressed by qqonnx, or a node does not fit.
    """
    found = matmulnbits.blocked_weights(model, metadata(model)["weights"])
    return {name: matmulnbits.read(nodes[0]) for name, nodes in found.items()}


def restore_weights(
    model: ir.Model, decoded: Callable[[str, NDArray[Any]], None] = lambda *_: None
) -> int:
    """Put plain floats back in place of the decode nodes; returns how many.

    Each weight is decoded when the model is written, and not kept.

    Args:
        model: the model, changed in place.
        decoded: called with the name and the values of each weight that decode nodes compute,
            when it is decoded.
    """
    weights, _ = compressed_weights(model)
    blocked = matmulnbits.blocked_weights(model, metadata(model)["weights"])
    for nodes in blocked.values():
        matmulnbits.restore(nodes)
    tensors = [
        ir.LazyTensor(
            _decoder(weight, decoded), weight.dtype, ir.Shape(weight.shape), name=weight.name
        )
        for weight in weights
    ]
    for weight, tensor in zip(weights, tensors, strict=True):
        name, old = weight.name, weight.value
        old.name = None
        if isinstance(weight.graph, ir.Function):
            node = ir.node("Constant", [], {"value": tensor})
            weight.graph.insert_before(weight.graph[0], node)
            new = node.outputs[0]
            new.name = name
        else:
            new = ir.Value(name=name, type=old.type, shape=old.shape, const_value=tensor)
            weight.graph.register_initializer(new)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    _remove_unused(weights)
    del model.metadata_props[METADATA_KEY]
    return len(weights) + len(blocked)


def _remove_unused(weights: list[CompressedWeight]) -> None:
    for weight in weights:
        for node in reversed(weight.nodes):
            unused = not any(output.uses() for output in node.outputs)
            if node.graph is not None and unused:
                node.graph.remove(node, safe=True)
    for weight in weights:
        for constant in weight.constants:
            if not constant.uses() and isinstance(weight.graph, ir.Graph):
                weight.graph.initializers.pop(constant.name or "", None)


def _ancestors(value: ir.Value) -> tuple[tuple[ir.Node, ...], tuple[ir.Value, ...]]:
    """Return the nodes that `value` is computed by, in order, and the constants they read."""
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

"""Give a quantized model float weights, which can be quantized again; activations stay rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qqonnx.encoding.encode import broadcastable
from qqonnx.integer.layers import LAYERS, transposed
from qqonnx.model.scopes import INTEGER_TYPES, tensor_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Reader:
    """A node that multiplies integers of an initializer by scales, at once or after its product.

    Attributes:
        integers: the initializer.
        scales: float32 [], [1] or [channels].
        zero: zero points, [] or [channels]; None without.
        axis: axis of the channels, which may be negative.
        node: DequantizeLinear or MatMulInteger.
        result: what the node becomes in floats: the value that its users read.
    """

    integers: ir.Value
    scales: Floats
    zero: NDArray[np.generic] | None
    axis: int
    node: ir.Node
    result: ir.Value


def float_weights(model: ir.Model, chosen: Callable[[ir.Value], bool]) -> dict[str, int]:
    """Replace integer weights of layers by their floats, in place.

    These are weights of Conv, Gemm and MatMul after DequantizeLinear, those of MatMulInteger with
    the range of each run, and tables that Gather reads before DequantizeLinear. Their biases become
    floats as well. Weights that are used in another way stay integers.

    Args:
        model: the quantized model.
        chosen: whether an integer initializer is to be replaced.

    Returns:
        The bytes of the integers, by the name of each replaced weight.
    """
    graph = model.graph
    sizes = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype not in INTEGER_TYPES or len(tensor.shape) < 2:
            continue
        if value.is_graph_output() or not chosen(value):
            continue
        found = _readers(value)
        if not found:
            continue
        sizes[value.name or ""] = tensor.nbytes
        put_floats(value, found[0].scales, found[0].axis, found[0].zero)
        for reader in found:
            if reader.node.op_type == "MatMulInteger":
                _multiply_floats(graph, reader)
            else:
                _read_floats(graph, reader)
    RemoveUnusedNodesPass()(model)
    return sizes


def put_floats(
    value: ir.Value, scales: Floats, axis: int, zero: NDArray[np.generic] | None = None
) -> None:
    """Replace the integers of an initializer by floats, which are computed when they are read."""
    integers = tensor_of(value)
    rank = len(integers.shape)
    name = value.name

    def shaped(numbers: NDArray[np.generic]) -> Floats:
        floats = numbers.astype(np.float32)
        return broadcastable(floats, axis % rank, rank) if floats.ndim == 1 else floats

    def evaluate() -> ir.TensorProtocol:
        numbers = integers.numpy().astype(np.float32)
        if zero is not None:
            numbers -= shaped(zero)
        return ir.Tensor(numbers * shaped(scales), name=name)

    kind = ir.DataType.FLOAT
    value.const_value = ir.LazyTensor(evaluate, kind, ir.Shape(integers.shape.numpy()), name=name)
    value.type = ir.TensorType(kind)


def constant(value: ir.Value | None) -> Floats | None:
    """Return a constant, also what Cast, Mul and Split compute from constants; None if it is none.

    The scales of all weights of a file may come from one tensor.
    """
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return np.asarray(tensor.numpy()).astype(np.float32)
    producer = value.producer()
    if producer is None or producer.op_type not in ("Cast", "Mul", "Split"):
        return None
    parts = [constant(entry) for entry in producer.inputs]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if producer.op_type == "Split":
        ends = np.cumsum(known[1].astype(np.int64))
        return np.split(known[0], ends)[list(producer.outputs).index(value)]
    return np.asarray(known[0] if len(known) == 1 else known[0] * known[1])


def zero_point(node: ir.Node, index: int) -> NDArray[np.generic] | None:
    """Return the zero points that a node reads, zero if it reads none; None if they vary."""
    if len(node.inputs) <= index or node.inputs[index] is None:
        return np.zeros((), np.int8)
    producer = node.inputs[index].producer()  # type: ignore[union-attr]
    if producer is not None and producer.op_type == "ConstantOfShape":
        return np.zeros((), np.int8)
    found = constant(node.inputs[index])
    return None if found is None else np.asarray(found)


def replace_value(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
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


def _readers(value: ir.Value) -> list[_Reader]:
    """Return the readers of an initializer; none unless all are known and scale it alike."""
    found: list[_Reader | None] = []
    for node, index in value.uses():
        if node.op_type == "DequantizeLinear" and index == 0:
            found.append(_dequantizer(value, node, of_layers=True))
        elif node.op_type == "Gather" and index == 0:
            users = [user for user, _ in node.outputs[0].uses()]
            single = len(users) == 1 and users[0].op_type == "DequantizeLinear"
            found.append(_dequantizer(value, users[0], of_layers=False) if single else None)
        elif node.op_type == "Transpose":
            order = list(node.attributes.get_ints("perm", [1, 0]))
            found += [_product(value, user, order[-1]) for user, _ in node.outputs[0].uses()]
        else:
            found.append(_product(value, node, len(tensor_of(value).shape) - 1))
    known = [reader for reader in found if reader is not None]
    alike = all(_alike(known[0], other) for other in known[1:])
    return known if known and len(known) == len(found) and alike else []


def _dequantizer(value: ir.Value, node: ir.Node, *, of_layers: bool) -> _Reader | None:
    """Return a DequantizeLinear of weights of layers, or one behind Gather with a single scale."""
    output = node.outputs[0]
    scales, zero = constant(node.inputs[1]), zero_point(node, 2)
    if scales is None or zero is None or "block_size" in node.attributes:
        return None
    if of_layers:
        users = [use for reader in (output, *transposed(output)) for use in reader.uses()]
        layers = [use for use in users if use[0].op_type != "Transpose"]
        if not layers or any(u.op_type not in LAYERS or i != 1 for u, i in layers):
            return None
    elif scales.size > 1:
        return None
    axis = node.attributes.get_int("axis", 1)
    return _Reader(value, scales, _unless_zeros(zero), axis, node, output)


def _product(value: ir.Value, node: ir.Node, axis: int) -> _Reader | None:
    """Return a MatMulInteger of rounded activations, whose product is scaled by Cast and Mul."""
    if node.op_type != "MatMulInteger":
        return None
    rounded = node.inputs[0]
    quantizer = rounded.producer() if rounded is not None else None
    zero = zero_point(node, 3)
    cast = _only_user(node.outputs[0], "Cast")
    scaled = _only_user(cast.outputs[0], "Mul") if cast is not None else None
    if quantizer is None or quantizer.op_type != "DynamicQuantizeLinear":
        return None
    if scaled is None or zero is None or cast is None:
        return None
    factors = _other_input(scaled, cast.outputs[0])
    both = factors.producer() if factors is not None else None
    if both is None or both.op_type != "Mul":
        return None
    scales = constant(_other_input(both, quantizer.outputs[1]))
    if scales is None:
        return None
    return _Reader(value, scales, _unless_zeros(zero), axis, node, scaled.outputs[0])


def _other_input(node: ir.Node, known: ir.Value) -> ir.Value | None:
    """Return the other input of a Mul of two values; None if `known` is not one of them."""
    others = [entry for entry in node.inputs if entry is not known]
    return others[0] if len(others) == 1 else None


def _only_user(value: ir.Value, operator: str) -> ir.Node | None:
    users = [user for user, _ in value.uses()]
    single = len(users) == 1 and users[0].op_type == operator and not value.is_graph_output()
    return users[0] if single else None


def _unless_zeros(zero: NDArray[np.generic]) -> NDArray[np.generic] | None:
    return zero if zero.any() else None


def _alike(first: _Reader, second: _Reader) -> bool:
    zero, other = (np.zeros(()) if r.zero is None else r.zero for r in (first, second))
    rank = len(tensor_of(first.integers).shape)
    return (
        np.array_equal(first.scales, second.scales)
        and np.array_equal(zero, other)
        and (first.axis - second.axis) % rank == 0
    )


def _read_floats(graph: ir.Graph, reader: _Reader) -> None:
    """Let the users of a DequantizeLinear read the floats, or those that Gather takes of them."""
    source = reader.node.inputs[0]
    assert source is not None
    if source is not reader.integers:
        source.type = ir.TensorType(ir.DataType.FLOAT)
    for value in transposed(reader.result):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in [user for user, index in reader.result.uses() if index == 1]:
        _read_float_bias(node)
    replace_value(graph, reader.result, source)


def _read_float_bias(node: ir.Node) -> None:
    """Make the bias of a layer a float initializer, if DequantizeLinear makes it of integers."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    restored = bias.producer() if bias is not None else None
    if bias is None or restored is None or restored.op_type != "DequantizeLinear":
        return
    integers, scales = restored.inputs[0], constant(restored.inputs[1])
    zero = zero_point(restored, 2)
    if integers is None or scales is None or zero is None or len(integers.uses()) != 1:
        return
    if integers.is_initializer() and len(bias.uses()) == 1:
        put_floats(integers, scales, 0, _unless_zeros(zero))
        node.replace_input_with(2, integers)


def _multiply_floats(graph: ir.Graph, reader: _Reader) -> None:
    """Replace MatMulInteger, Cast and Mul by a MatMul of rounded activations and floats."""
    rounded, weight = reader.node.inputs[:2]
    assert rounded is not None
    assert weight is not None
    weight.type = ir.TensorType(ir.DataType.FLOAT)
    quantizer = rounded.producer()
    assert quantizer is not None
    restored = [user for user, _ in rounded.uses() if user.op_type == "DequantizeLinear"]
    if not restored:
        restored = [ir.node("DequantizeLinear", quantizer.outputs, name="")]
        graph.insert_after(quantizer, restored)
    multiply = ir.node("MatMul", [restored[0].outputs[0], weight], name="")
    scaled = reader.result.producer()
    assert scaled is not None
    graph.insert_before(scaled, multiply)
    replace_value(graph, reader.result, multiply.outputs[0])

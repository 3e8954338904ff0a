"""Put integer weights into a model with rounded activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qqonnx.codebooks import as_scales, scale_groups
from qqonnx.encoding.builder import Builder
from qqonnx.encoding.rewrite import fresh_names
from qqonnx.integer.layers import transposed
from qqonnx.model.scopes import number_of, tensor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from qqonnx.model.select import Weight

_BIAS_LIMIT = 2.0**30
"""Largest absolute value of a bias as an integer; sums of products are added to it in int32."""


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as integers and a scale for each output channel.

    Attributes:
        name: the weight's name.
        values: int8, of the weight's shape.
        scales: float32 [channels]; see `as_scales`.
        channel_axis: axis of the output channels.
    """

    name: str
    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    channel_axis: int


def nearest_integers(weight: Weight, limit: int) -> IntegerWeight:
    """Round a weight to the nearest integers up to `limit`, with the scales that just fit."""
    axis = weight.channel_axis
    assert axis is not None
    values = weight.tensor.numpy()
    others = tuple(other for other in range(values.ndim) if other != axis)
    largest = np.abs(values).max(axis=others, initial=0)
    largest = np.where(largest > 0, largest, 1).astype(np.float32)
    scales = as_scales(largest / np.float32(limit))
    shares = np.moveaxis(values, axis, -1) / scales
    rounded = np.clip(np.rint(np.moveaxis(shares, -1, axis)), -limit, limit)
    return IntegerWeight(weight.name, rounded.astype(np.int8), scales, axis)


def put_integers(model: ir.Model, weights: Iterable[IntegerWeight]) -> None:
    """Replace float weights of layers with rounded inputs by integers, in place.

    The initializer becomes int8 and keeps its name. With fixed ranges, a DequantizeLinear follows
    it, and biases become int32, as ONNX Runtime expects them. With a range for each run, the layers
    become MatMulInteger.
    """
    graph = model.graph
    fresh_name = fresh_names(model)
    weights = list(weights)
    builder = Builder(fresh_name, in_function=False)
    for weight, scales in zip(weights, _add_scales(builder, weights), strict=True):
        value = graph.initializers[weight.name]
        tensor = ir.Tensor(weight.values, name=weight.name)
        value.const_value, value.type, value.shape = tensor, ir.TensorType(tensor.dtype), None
        readers = [value, *transposed(value)]
        for reader in readers:
            reader.type = value.type
        users = [node for reader in readers for node, index in reader.uses() if index == 1]
        if _dynamic_range(users[0]) is None:
            _dequantize(builder, weight, value, scales, users)
        for node in users:
            dynamic = _dynamic_range(node)
            if dynamic is not None:
                _multiply_integers(graph, node, dynamic, scales, fresh_name)
    for value in builder.initializers:
        graph.register_initializer(value)
    graph.insert_before(graph[0], builder.nodes)
    for node in builder.nodes:
        node.name = ""


def _add_scales(builder: Builder, weights: Sequence[IntegerWeight]) -> list[ir.Value]:
    """Add the nodes that compute the scales of all weights at once: float32 [channels] each."""
    found: dict[int, ir.Value] = {}
    for group in scale_groups([weight.scales for weight in weights]):
        stored = builder.constant(group.shares, "s")
        wide = builder.apply("Cast", [stored], "s", to=ir.DataType.FLOAT)
        unit = builder.constant(np.array(group.unit, np.float32), "u")
        scales = builder.apply("Mul", [wide, unit], "s")
        if len(group.members) == 1:
            found[group.members[0]] = scales
            continue
        sizes = np.array([weights[member].scales.size for member in group.members], np.int64)
        parts = builder.split(scales, builder.constant(sizes, "n"), len(sizes))
        found |= dict(zip(group.members, parts, strict=True))
    return [found[number] for number in range(len(weights))]


def _dequantize(
    builder: Builder,
    weight: IntegerWeight,
    value: ir.Value,
    scales: ir.Value,
    users: Sequence[ir.Node],
) -> None:
    """Add a DequantizeLinear to a weight and to the biases of its layers."""
    readers = list(value.uses())
    parts = [value, scales]
    if any(node.op_type != "Conv" for node in users):
        # ONNX Runtime does not fuse a Gemm without zero points.
        count = builder.constant(np.array(weight.scales.shape, np.int64), "z")
        zero = ir.Tensor(np.zeros(1, np.int8))
        parts.append(builder.apply("ConstantOfShape", [count], "z", value=zero))
    restored = builder.apply("DequantizeLinear", parts, "w", axis=weight.channel_axis)
    for node, index in readers:
        node.replace_input_with(index, restored)
    for node in users:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        step = _dequantizer(node).inputs[1]
        assert step is not None
        integers = _bias_integers(bias, step, weight.scales)
        if integers is not None:
            product = builder.apply("Mul", [scales, step], "b")
            stored = builder.constant(integers, "b")
            restored = builder.apply("DequantizeLinear", [stored, product], "b", axis=0)
            node.replace_input_with(2, restored)
            if bias is not None and not bias.uses() and bias.graph is not None:
                bias.graph.initializers.pop(bias.name or "", None)


def _bias_integers(
    bias: ir.Value | None, step: ir.Value, scales: NDArray[np.float32]
) -> NDArray[np.int32] | None:
    """Return a bias in multiples of the product of both scales: int32 [channels].

    None if there is no constant bias of one value per channel, or if it does not fit int32.
    """
    if bias is None or bias.const_value is None or step.const_value is None:
        return None
    values = tensor_of(bias).numpy().astype(np.float64)
    if values.shape != scales.shape:
        return None
    product = tensor_of(step).numpy().reshape(()) * scales
    shares = np.rint(values / product.astype(np.float64))
    return shares.astype(np.int32) if np.abs(shares).max(initial=0) <= _BIAS_LIMIT else None


def _multiply_integers(
    graph: ir.Graph,
    node: ir.Node,
    dynamic: ir.Node,
    scales: ir.Value,
    fresh_name: Callable[[str], str],
) -> None:
    """Replace a MatMul or Gemm by MatMulInteger, and multiply its result by both scales."""
    builder = Builder(fresh_name, in_function=False)
    rounded, step, zero = dynamic.outputs
    weight, *bias = node.inputs[1:]
    assert weight is not None
    if node.op_type == "Gemm" and number_of(node, "transB", 0):
        weight = builder.apply("Transpose", [weight], "t", perm=[1, 0])
    sums = builder.apply("MatMulInteger", [rounded, weight, zero], "y")
    wide = builder.apply("Cast", [sums], "y", to=ir.DataType.FLOAT)
    factors = builder.apply("Mul", [step, scales], "y")
    result = builder.apply("Mul", [wide, factors], "y")
    if bias and bias[0] is not None:
        result = builder.apply("Add", [result, bias[0]], "y")
    old = node.outputs[0]
    name = old.name
    result.type, result.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    old.name, result.name = None, name
    graph.insert_before(node, builder.nodes)
    for added in builder.nodes:
        added.name = ""
    restored = node.inputs[0]
    graph.remove(node, safe=True)
    assert restored is not None
    producer = restored.producer()
    if not restored.uses() and producer is not None:
        graph.remove(producer, safe=True)


def _dynamic_range(node: ir.Node) -> ir.Node | None:
    """Return the DynamicQuantizeLinear of a layer's input; None if its range is fixed."""
    quantized = _dequantizer(node).inputs[0]
    assert quantized is not None
    producer = quantized.producer()
    return producer if producer is not None and producer.op_type.startswith("Dynamic") else None


def _dequantizer(node: ir.Node) -> ir.Node:
    """Return the DequantizeLinear that gives a layer its rounded input."""
    activation = node.inputs[0]
    assert activation is not None
    producer = activation.producer()
    assert producer is not None
    return producer

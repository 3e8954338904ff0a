"""The layers of a model that can multiply integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.model.scopes import number_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from qqonnx.config import Compute
    from qqonnx.model.select import Weight

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators whose second input can be an integer weight."""


def layers(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the layers of the main graph that multiply a float activation by a constant weight."""
    for node in model.graph:
        if node.op_type in LAYERS and node.domain == "" and _is_plain(node):
            activation, weight = node.inputs[:2]
            if activation is None or weight is None:
                continue
            if activation.const_value is None and _is_float_weight(weight):
                yield node


def form_of(model: ir.Model) -> Compute | None:
    """Return the form that suits a model: "int8-static" if most layers are Conv, or "int8-dynamic".

    None if the model has no layer that can multiply integers.
    """
    operators = [node.op_type for node in layers(model)]
    if not operators:
        return None
    return "int8-static" if 2 * operators.count("Conv") > len(operators) else "int8-dynamic"


def layers_of(weight: Weight) -> list[ir.Node]:
    """Return the layers that use a weight, directly or after a Transpose.

    The list is empty if anything else uses it, or if it is not a float32 initializer.
    """
    value = weight.value
    if not value.is_initializer() or weight.tensor.dtype != ir.DataType.FLOAT:
        return []
    found = []
    for reader in (value, *transposed(value)):
        for node, index in reader.uses():
            if node.op_type == "Transpose" and reader is value:
                continue
            if node.op_type not in LAYERS or index != 1 or not _is_plain(node):
                return []
            found.append(node)
    return [] if value.is_graph_output() else found


def transposed(value: ir.Value) -> list[ir.Value]:
    """Return the outputs of the Transpose nodes that read a value."""
    return [node.outputs[0] for node, _ in value.uses() if node.op_type == "Transpose"]


def multiplied_as_integers(weights: Collection[Weight]) -> list[Weight]:
    """Return the weights that are only multiplied by rounded activations."""
    return [
        weight
        for weight in weights
        if weight.channel_axis is not None
        and (users := layers_of(weight))
        and all(is_rounded(node.inputs[0]) for node in users)
    ]


def largest_level(weight: Weight, limit: int) -> int:
    """Return the largest absolute level of a weight, if products must not exceed those of `limit`.

    The kernels of depthwise convolutions do not add products in 16 bits, so there it is 127.
    """
    groups = {node.attributes.get_int("group", 1) for node in layers_of(weight)}
    is_depthwise = weight.users == ("Conv",) and groups == {weight.shape[0]}
    return 127 if is_depthwise else limit


def is_rounded(value: ir.Value | None) -> bool:
    """Return whether a value is the output of a DequantizeLinear."""
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def _is_plain(node: ir.Node) -> bool:
    if node.op_type != "Gemm":
        return True
    factors = (number_of(node, "alpha", 1.0), number_of(node, "beta", 1.0))
    return factors == (1.0, 1.0) and number_of(node, "transA", 0) == 0


def _is_float_weight(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None and producer.op_type == "Transpose" and producer.inputs[0] is not None:
        value = producer.inputs[0]
    tensor = value.const_value
    return value.is_initializer() and tensor is not None and tensor.dtype == ir.DataType.FLOAT

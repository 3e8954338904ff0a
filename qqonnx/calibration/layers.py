"""Weights as matrices, and the operators that use them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.model.select import Weight


@dataclass(frozen=True)
class Layer:
    """A weight and the operator that uses it.

    As a matrix, the weight is [groups, rows, columns], with one row per output channel of a group,
    and one column per input of the channel.

    Attributes:
        name: the weight's name.
        shape: the weight's shape.
        operator: "Conv", "ConvTranspose" or "MatMul"; a Gemm is a "MatMul". "RNN" for a weight
            [directions, rows, columns] of an RNN, GRU or LSTM.
        inputs: the activations that the weight is multiplied with; several if nodes share it. For
            recurrent weights, the states of all steps.
        transposed: whether the weight of a MatMul is [columns, rows].
        groups: groups of a Conv; directions of recurrent weights; 1 otherwise.
        strides: strides of a Conv, one per spatial axis.
        dilations: dilations of a Conv, one per spatial axis.
        pads: padding of a Conv: [begin..., end...] over the spatial axes. For a ConvTranspose, of
            the Conv that does the same with an input that has zeros in between; can be negative.
        same: automatic padding of a Conv, "SAME_UPPER" or "SAME_LOWER"; empty if there is none.
    """

    name: str
    shape: tuple[int, ...]
    operator: str
    inputs: tuple[ir.Value, ...]
    transposed: bool = False
    groups: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    same: str = ""

    @property
    def columns(self) -> int:
        """Number of inputs of an output channel."""
        if self.operator == "Conv":
            return prod(self.shape[1:])
        if self.operator == "ConvTranspose":
            return prod(self.shape[2:]) * self.shape[0] // self.groups
        if self.operator == "RNN":
            return self.shape[2]
        return self.shape[0] if self.transposed else self.shape[1]

    @property
    def patch_key(self) -> tuple[object, ...]:
        """Equal for layers that have the same patches."""
        return (
            *(self.inputs, self.operator, self.groups, self.columns, self.shape[2:]),
            *(self.strides, self.dilations, self.pads, self.same),
        )

    def matrix(self, values: NDArray[Any]) -> NDArray[Any]:
        """Reshape values of the weight's shape to [groups, rows, columns]."""
        if self.operator == "Conv":
            return values.reshape(self.groups, self.shape[0] // self.groups, -1)
        if self.operator == "ConvTranspose":
            taps = values.reshape(self.groups, -1, self.shape[1], prod(self.shape[2:]))[..., ::-1]
            matrix = taps.transpose(0, 2, 1, 3).reshape(self.groups, self.shape[1], -1)
            return np.asarray(matrix)
        if self.operator == "RNN":
            return values.reshape(self.groups, -1, self.shape[2])
        return np.ascontiguousarray(values.T if self.transposed else values)[None]

    def weight(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Reshape [groups, rows, columns] to the weight's shape: the inverse of `matrix`."""
        if self.operator == "ConvTranspose":
            taps = matrix.reshape(self.groups, self.shape[1], -1, prod(self.shape[2:]))[..., ::-1]
            return np.ascontiguousarray(taps.transpose(0, 2, 1, 3)).reshape(self.shape)
        if self.operator in ("Conv", "RNN"):
            return matrix.reshape(self.shape)
        return np.ascontiguousarray(matrix[0].T if self.transposed else matrix[0])


def layer_of(weight: Weight) -> Layer | None:
    """Return the layer of a weight; None unless all users are equal and can be observed.

    Cast, Identity and Transpose may stand between the weight and its users. A Gather that takes
    rows of the weight, as of a tied embedding, has no activations and does not count.
    """
    layers: list[Layer] = []
    pending = [(weight.value, False)]
    while pending:
        value, flipped = pending.pop()
        for node, index in value.uses():
            # Values of a subgraph cannot be outputs of the model.
            visible = isinstance(weight.scope, ir.Graph) and node.graph is weight.scope
            if node.op_type in ("Shape", "Size") or (node.op_type == "Gather" and index == 0):
                continue
            if visible and node.op_type in ("Cast", "Identity"):
                pending.append((node.outputs[0], flipped))
            elif visible and node.op_type == "Transpose" and len(weight.shape) == 2:
                order = node.attributes.get_ints("perm", [1, 0])
                pending.append((node.outputs[0], flipped != (list(order) == [1, 0])))
            else:
                layer = _layer(weight, node, index, flipped) if visible else None
                if layer is None:
                    return None
                layers.append(layer)
    inputs = tuple(dict.fromkeys(value for layer in layers for value in layer.inputs))
    shared = {replace(layer, inputs=inputs) for layer in layers}
    return shared.pop() if len(shared) == 1 else None


def _layer(weight: Weight, node: ir.Node, index: int, flipped: bool) -> Layer | None:
    """Return the layer of a weight at input `index` of a node.

    Args:
        weight: the weight.
        node: the node.
        index: number of the input.
        flipped: whether the node reads the weight's transpose.
    """
    activation = node.inputs[0]
    if activation is None or activation.const_value is not None or node.domain != "":
        return None
    if node.op_type in ("RNN", "GRU", "LSTM"):
        return _recurrent_layer(weight, node, index)
    shape = weight.shape
    if index != 1:
        return None
    if node.op_type == "Conv" and len(shape) > 2:
        return _conv_layer(weight, node, activation)
    if node.op_type == "ConvTranspose" and len(shape) > 2:
        return _conv_transpose_layer(weight, node, activation)
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0):
        transposed = bool(node.attributes.get_int("transB", 0)) == flipped
        return Layer(weight.name, shape, "MatMul", (activation,), transposed=transposed)
    if node.op_type == "MatMul" and len(shape) == 2:
        return Layer(weight.name, shape, "MatMul", (activation,), transposed=not flipped)
    return None


def _conv_layer(weight: Weight, node: ir.Node, activation: ir.Value) -> Layer:
    spatial = len(weight.shape) - 2
    same = node.attributes.get_string("auto_pad", "NOTSET")
    return Layer(
        weight.name,
        weight.shape,
        "Conv",
        (activation,),
        groups=node.attributes.get_int("group", 1),
        strides=tuple(node.attributes.get_ints("strides", [1] * spatial)),
        dilations=tuple(node.attributes.get_ints("dilations", [1] * spatial)),
        pads=tuple(node.attributes.get_ints("pads", [0] * 2 * spatial)),
        same=same if same.startswith("SAME") else "",
    )


def _conv_transpose_layer(weight: Weight, node: ir.Node, activation: ir.Value) -> Layer | None:
    """Return the layer of a ConvTranspose; None if its padding depends on the size of the input."""
    layer = _conv_layer(weight, node, activation)
    if layer.same or "output_shape" in node.attributes:
        return None
    spatial = len(layer.strides)
    more = node.attributes.get_ints("output_padding", [0] * spatial)
    reach = [d * (k - 1) for d, k in zip(layer.dilations, weight.shape[2:], strict=True)]
    begins = [r - pad for r, pad in zip(reach, layer.pads[:spatial], strict=True)]
    ends = [r - pad + m for r, pad, m in zip(reach, layer.pads[spatial:], more, strict=True)]
    return replace(layer, operator="ConvTranspose", pads=(*begins, *ends))


def _recurrent_layer(weight: Weight, node: ir.Node, index: int) -> Layer | None:
    """Return the layer of the weights of inputs or of states; None if no output has the states."""
    activation = node.inputs[0]
    if node.attributes.get_int("layout", 0) or len(weight.shape) != 3 or activation is None:
        return None
    if index == 1:
        return Layer(weight.name, weight.shape, "RNN", (activation,))
    states = node.outputs[0]
    if index != 2 or not states.name:
        return None
    return Layer(weight.name, weight.shape, "RNN", (states,), groups=weight.shape[0])

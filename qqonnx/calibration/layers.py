"""Weights as matrices, and the patches of activations that they are multiplied with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.model.select import Weight

    FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A weight and the operator that uses it.

    As a matrix, the weight is [groups, rows, columns], with one row per output channel of a group,
    and one column per input of the channel.

    Attributes:
        name: the weight's name.
        shape: the weight's shape.
        operator: "Conv" or "MatMul"; a Gemm is a "MatMul".
        inputs: the activations that the weight is multiplied with; several if nodes share it.
        transposed: whether the weight of a MatMul is [columns, rows].
        groups: groups of a Conv; 1 otherwise.
        strides: strides of a Conv, one per spatial axis.
        dilations: dilations of a Conv, one per spatial axis.
        pads: padding of a Conv: [begin..., end...] over the spatial axes.
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
        return np.ascontiguousarray(values.T if self.transposed else values)[None]

    def weight(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Reshape [groups, rows, columns] to the weight's shape: the inverse of `matrix`."""
        if self.operator == "Conv":
            return matrix.reshape(self.shape)
        return np.ascontiguousarray(matrix[0].T if self.transposed else matrix[0])


def layer_of(weight: Weight) -> Layer | None:
    """Return the layer of a weight; None unless all users are equal Conv, Gemm or MatMul nodes.

    Cast, Identity and Transpose may stand between the weight and its users.
    """
    layers: list[Layer] = []
    pending = [(weight.value, False)]
    while pending:
        value, flipped = pending.pop()
        for node, index in value.uses():
            # Values of a subgraph cannot be outputs of the model.
            visible = isinstance(weight.scope, ir.Graph) and node.graph is weight.scope
            if node.op_type in ("Shape", "Size"):
                continue
            if visible and node.op_type in ("Cast", "Identity"):
                pending.append((node.outputs[0], flipped))
            elif visible and node.op_type == "Transpose" and len(weight.shape) == 2:
                order = node.attributes.get_ints("perm", [1, 0])
                pending.append((node.outputs[0], flipped != (list(order) == [1, 0])))
            else:
                layer = _layer(weight, node, flipped) if visible and index == 1 else None
                if layer is None:
                    return None
                layers.append(layer)
    inputs = tuple(dict.fromkeys(value for layer in layers for value in layer.inputs))
    shared = {replace(layer, inputs=inputs) for layer in layers}
    return shared.pop() if len(shared) == 1 else None


def _layer(weight: Weight, node: ir.Node, flipped: bool) -> Layer | None:
    """Return the layer of a weight at a node; `flipped` if the node reads its transpose."""
    activation = node.inputs[0]
    if activation is None or activation.const_value is not None or node.domain != "":
        return None
    shape = weight.shape
    if node.op_type == "Conv" and len(shape) > 2:
        spatial = len(shape) - 2
        same = node.attributes.get_string("auto_pad", "NOTSET")
        return Layer(
            weight.name,
            shape,
            "Conv",
            (activation,),
            groups=node.attributes.get_int("group", 1),
            strides=tuple(node.attributes.get_ints("strides", [1] * spatial)),
            dilations=tuple(node.attributes.get_ints("dilations", [1] * spatial)),
            pads=tuple(node.attributes.get_ints("pads", [0] * 2 * spatial)),
            same=same if same.startswith("SAME") else "",
        )
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0):
        transposed = bool(node.attributes.get_int("transB", 0)) == flipped
        return Layer(weight.name, shape, "MatMul", (activation,), transposed=transposed)
    if node.op_type == "MatMul" and len(shape) == 2:
        return Layer(weight.name, shape, "MatMul", (activation,), transposed=not flipped)
    return None


def patches(
    layer: Layer,
    activation: FloatArray,
    max_positions: int,
    random: np.random.Generator,
    mask: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Return the vectors that the rows of the weight's matrix are multiplied with, as columns.

    Args:
        layer: the layer.
        activation: input of the layer, float32 [samples, ...].
        max_positions: largest number of positions per sample; if there are more, a random subset
            is used, the same one for all samples.
        random: random generator.
        mask: which positions are not padding, bool [samples, positions]; it counts if the
            activation is [samples, positions, columns].

    Returns:
        float32 [groups, columns, samples x positions].
    """
    if layer.operator != "Conv":
        rows = activation.reshape(activation.shape[0], -1, layer.columns)
        positions = _positions(rows.shape[1], max_positions, random)
        chosen = rows[:, positions]
        if mask is not None and activation.ndim == 3 and activation.shape[:2] == mask.shape:
            chosen = chosen[mask[:, positions]]
        return np.asarray(chosen.reshape(-1, layer.columns).T[None])
    kernel = layer.shape[2:]
    begins, ends = _padding(layer, activation.shape[2:])
    if any(begins) or any(ends):
        sides = [(0, 0), (0, 0), *zip(begins, ends, strict=True)]
        activation = np.pad(activation, sides)
    size = activation.shape[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilations, kernel, strict=True)]
    output = [
        (length - r) // stride + 1
        for length, r, stride in zip(size, reach, layer.strides, strict=True)
    ]
    corners = np.unravel_index(_positions(prod(output), max_positions, random), output)
    offsets = np.unravel_index(np.arange(prod(kernel)), kernel)
    coordinates = tuple(
        offset[:, None] * dilation + corner[None, :] * stride
        for corner, offset, stride, dilation in zip(
            corners, offsets, layer.strides, layer.dilations, strict=True
        )
    )
    samples, channels = activation.shape[:2]
    taken = np.ravel_multi_index(coordinates, size)
    windows = activation.reshape(samples, channels, -1).take(taken.reshape(-1), axis=2)
    columns = windows.reshape(samples, layer.groups, layer.columns, -1).transpose(1, 2, 0, 3)
    return np.asarray(columns.reshape(layer.groups, layer.columns, -1))


def _positions(count: int, max_positions: int, random: np.random.Generator) -> NDArray[np.intp]:
    if count <= max_positions:
        return np.arange(count)
    return np.sort(random.choice(count, max_positions, replace=False))


def _padding(layer: Layer, size: Sequence[int]) -> tuple[list[int], list[int]]:
    spatial = len(layer.strides)
    if not layer.same:
        return list(layer.pads[:spatial]), list(layer.pads[spatial:])
    begins, ends = [], []
    for axis in range(spatial):
        reach = layer.dilations[axis] * (layer.shape[2 + axis] - 1) + 1
        steps = -(-size[axis] // layer.strides[axis])
        missing = max((steps - 1) * layer.strides[axis] + reach - size[axis], 0)
        small, large = missing // 2, missing - missing // 2
        begins.append(small if layer.same == "SAME_UPPER" else large)
        ends.append(large if layer.same == "SAME_UPPER" else small)
    return begins, ends

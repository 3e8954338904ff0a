"""Find the weights of a model, the operators that use them, and their channel axes."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.model.scopes import Scope, named_constants, number_of, tensor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REARRANGING = {
    "Cast",
    "Flatten",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators that keep a tensor's values, with the tensor as their first input."""

_BIAS_INPUTS = {
    "Conv": (2,),
    "FusedConv": (2,),
    "NhwcFusedConv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "FusedGemm": (2,),
    "LSTM": (3,),
    "GRU": (3,),
    "RNN": (3,),
    "Attention": (2,),
}

LARGE = 1024
"""Number of elements from which a tensor that is no weight is worth naming."""

Axis = int | None


@dataclass(frozen=True)
class Weight:
    """A float tensor that can be stored as indices and a codebook.

    Attributes:
        name: name of the initializer or of the Constant node's output; with a number appended if
            a weight in another subgraph or function has the same name.
        value: the value that nodes read; several nodes may share it.
        scope: the graph or function that contains it.
        users: operator types that read it as a weight, such as ("Conv",).
        channel_axis: axis of the output channels; None if the users define none or disagree.
        is_bias: whether all users read it as a bias.
    """

    name: str
    value: ir.Value
    scope: Scope
    users: tuple[str, ...]
    channel_axis: Axis
    is_bias: bool

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The tensor's data."""
        return tensor_of(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.tensor.shape.numpy())


@dataclass(frozen=True)
class Skipped:
    """A float tensor that is not compressed.

    Attributes:
        name: the tensor's name.
        shape: the tensor's shape.
        nbytes: the tensor's size in bytes.
        reason: the reason in a few words.
        is_defect: whether something is wrong with the tensor, so that the user should hear of it.
        can_include: whether the tensor is compressed if the user names it; see `select`.
    """

    name: str
    shape: tuple[int, ...]
    nbytes: int
    reason: str
    is_defect: bool = False
    can_include: bool = False


@dataclass(frozen=True)
class Use:
    """A node that uses a value as a weight.

    Attributes:
        node: the node.
        channel_axis: axis of the value that has the output channels; None if there is none.
        is_bias: whether the node uses the value as a bias.
    """

    node: ir.Node
    channel_axis: Axis
    is_bias: bool


def select(
    model: ir.Model, *, include_bias: bool = False, include: Sequence[str] = ()
) -> tuple[list[Weight], list[Skipped]]:
    """Return the weights of a model and its other float tensors, in graph order.

    Args:
        model: the model; it does not change.
        include_bias: whether biases are weights.
        include: patterns (`*`, `?`, `[...]`) of names of tensors that are weights however they are
            used.
    """
    weights: list[Weight] = []
    skipped: list[Skipped] = []
    for name, value, scope in named_constants(model):
        tensor = tensor_of(value)
        shape = tuple(tensor.shape.numpy())
        uses = list(uses_as_weight(model, value, len(shape)))
        included = any(fnmatchcase(name, pattern) for pattern in include)
        reason = None if included and value.uses() else _reason_to_skip(uses, include_bias)
        fixed = reason_to_stay(value, scope)
        if reason or fixed:
            is_table = not uses or sum(size > 1 for size in shape) > 1
            can_include = is_table and not fixed and bool(value.uses()) and prod(shape) >= LARGE
            if can_include:
                reason = f"{reason}; --include NAME compresses it"
            text = fixed if fixed and not reason else reason or ""
            skipped.append(Skipped(name, shape, tensor.nbytes, text, can_include=can_include))
            continue
        axes = {use.channel_axis for use in uses if not use.is_bias}
        users = {use.node.op_type for use in uses} or {node.op_type for node, _ in value.uses()}
        weights.append(
            Weight(
                name=name,
                value=value,
                scope=scope,
                users=tuple(sorted(users)),
                channel_axis=axes.pop() if len(axes) == 1 else None,
                is_bias=bool(uses) and all(use.is_bias for use in uses),
            )
        )
    return weights, skipped


def _reason_to_skip(uses: list[Use], include_bias: bool) -> str | None:
    if not uses:
        return "no operator uses it as a weight"
    if not include_bias and all(use.is_bias for use in uses):
        return "a bias"
    return None


def reason_to_stay(value: ir.Value, scope: Scope) -> str | None:
    """Return why a constant cannot be replaced by nodes that compute it; None if it can."""
    if value.is_graph_input():
        return (
            "also an input of the model, which a caller can set; "
            "--constant-initializers takes it as a constant"
        )
    opset = scope.opset_imports.get("", 0) if isinstance(scope, ir.Function) else None
    if opset is not None and opset < 13:
        return f"in a function of opset {opset}; decoding needs opset 13"
    return None


def uses_as_weight(model: ir.Model, value: ir.Value, rank: int) -> Iterator[Use]:
    """Yield the uses of `value` as a weight, also behind operators that only rearrange it.

    Args:
        model: the model.
        value: a value of the model.
        rank: number of the value's dimensions.
    """
    pending: list[tuple[ir.Value, Callable[[Axis], Axis]]] = [(value, lambda axis: axis)]
    seen: set[ir.Value] = set()
    while pending:
        current, axis_before = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for node, index in current.uses():
            function = model.functions.get(node.op_identifier())
            if function is not None:
                pending.append((function.inputs[index], axis_before))
            elif _rearranges(node, index):
                through = _through(node, axis_before, rank)
                pending.extend((output, through) for output in node.outputs)
            elif index in _BIAS_INPUTS.get(node.op_type, ()) or _is_added_bias(node, index):
                yield Use(node, None, is_bias=True)
            elif (axis := _weight_axis(node, index)) is not False:
                channel_axis = axis_before(axis)
                if channel_axis is not None:
                    in_range = -rank <= channel_axis < rank
                    channel_axis = channel_axis % rank if in_range else None
                yield Use(node, channel_axis, is_bias=False)


def _rearranges(node: ir.Node, index: int) -> bool:
    if node.domain != "":
        return False
    # Exporters split the gates of a recurrent layer and join them in another order.
    if node.op_type == "Concat":
        return all(value is not None and _is_constant(value) for value in node.inputs)
    return node.op_type in REARRANGING and index == 0


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None:
        return value.is_initializer() and not value.is_graph_input()
    if producer.op_type not in (*REARRANGING, "Concat", "Constant"):
        return False
    return all(entry is None or _is_constant(entry) for entry in producer.inputs)


def _through(
    node: ir.Node, axis_before: Callable[[Axis], Axis], rank: int
) -> Callable[[Axis], Axis]:
    """Return a function from an axis of the node's output to the axis of the original tensor."""
    if node.op_type in ("Identity", "Cast"):
        return axis_before
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        if perm is not None and (perm.is_ref() or perm.type != ir.AttributeType.INTS):
            return lambda _: None
        order = list(perm.as_ints()) if perm is not None else list(range(rank))[::-1]

        def undo(axis: Axis) -> Axis:
            if axis is None or not -len(order) <= axis < len(order):
                return None
            return axis_before(order[axis])

        return undo
    return lambda _: None


def _is_added_bias(node: ir.Node, index: int) -> bool:
    if node.op_type != "Add" or node.domain != "":
        return False
    other = node.inputs[1 - index]
    producer = other.producer() if other is not None else None
    return producer is not None and producer.op_type in ("MatMul", "FusedMatMul", "Einsum")


def _flag(node: ir.Node, name: str) -> bool:
    return bool(number_of(node, name, 0))


def _weight_axis(node: ir.Node, index: int) -> Axis | bool:
    """Return the channel axis of the node's input `index`, or False if it is not a weight.

    The axis is None for a weight without a defined channel axis.
    """
    op = node.op_type
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return False
    if op in ("Conv", "FusedConv", "NhwcFusedConv"):
        return 0 if index == 1 else False
    if op == "ConvTranspose":
        return 1 if index == 1 else False
    if op in ("Gemm", "FusedGemm", "GemmFastGelu"):
        if index == 1:
            return 0 if _flag(node, "transB") else 1
        return (1 if _flag(node, "transA") else 0) if index == 0 else False
    if op in ("MatMul", "FusedMatMul", "TransposeMatMul"):
        if index == 1:
            return -2 if _flag(node, "transB") else -1
        return (-1 if _flag(node, "transA") else -2) if index == 0 else False
    if op == "Gather":
        return 0 if index == 0 else False
    if op in ("LSTM", "GRU", "RNN"):
        return 1 if index in (1, 2) else False
    if op == "Einsum":
        return None
    if op == "Attention" and node.domain == "com.microsoft":
        return 1 if index == 1 else False
    if op == "EmbedLayerNormalization":
        return 0 if index in (2, 3, 4) else False
    return False

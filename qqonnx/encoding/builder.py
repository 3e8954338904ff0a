"""Add decode nodes, and the constants that weights share, to a graph or function."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

P = ParamSpec("P")


def shared(
    add: Callable[Concatenate[Builder, P], ir.Value],
) -> Callable[Concatenate[Builder, P], ir.Value]:
    """Decorate a function that adds nodes: equal arguments add them once and give one value."""

    @wraps(add)
    def add_once(builder: Builder, /, *args: P.args, **kwargs: P.kwargs) -> ir.Value:
        key = (add, args, tuple(kwargs.items()))
        if key not in builder.shared:
            builder.shared[key] = add(builder, *args, **kwargs)
        return builder.shared[key]

    return add_once


@dataclass
class Builder:
    """The decode nodes to add to one graph or function.

    Attributes:
        fresh_name: function that returns a name that the model does not have yet.
        in_function: whether constants become Constant nodes, as functions have no initializers.
        nodes: the nodes in order.
        initializers: the constants, unless `in_function`.
        shared: values that several weights use, by function and arguments; see `shared`.
    """

    fresh_name: Callable[[str], str]
    in_function: bool
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)
    shared: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def constant(self, array: NDArray[np.generic], suffix: str) -> ir.Value:
        """Add a constant."""
        name = self.fresh_name(suffix)
        tensor = ir.Tensor(array, name=name)
        if self.in_function:
            return self.apply("Constant", [], suffix, value=tensor)
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.initializers.append(value)
        return value

    def apply(
        self, op_type: str, inputs: list[ir.Value], suffix: str, **attributes: object
    ) -> ir.Value:
        """Add a node with one output and return the output."""
        output = ir.Value(name=self.fresh_name(suffix))
        node = ir.node(op_type, inputs, attributes, outputs=[output])  # type: ignore[arg-type]
        self.nodes.append(node)
        return output

    def split(self, values: ir.Value, sizes: ir.Value, count: int) -> list[ir.Value]:
        """Add a Split along the first axis and return its `count` outputs."""
        outputs = [ir.Value(name=self.fresh_name("w")) for _ in range(count)]
        self.nodes.append(ir.node("Split", [values, sizes], {"axis": 0}, outputs=outputs))
        return outputs


@shared
def integers(builder: Builder, numbers: tuple[int, ...] | int, dtype: type[np.integer]) -> ir.Value:
    """Add a small integer constant."""
    return builder.constant(np.array(numbers, dtype), "n")

"""Where decode nodes are added, and the constants they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass
class Builder:
    """Where decode nodes are being added: one graph or function.

    Attributes:
        fresh_name: gives a name that the model does not have yet.
        in_function: constants become Constant nodes, as functions have no initializers.
        nodes: the nodes so far, in order.
        initializers: the constants so far, if not `in_function`.
        shared: values that several weights use, by what they are.
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

    def integers(self, numbers: tuple[int, ...] | int, dtype: type[np.integer]) -> ir.Value:
        """Return a small integer constant, one for all weights that need the same."""
        key = ("integers", numbers, dtype)
        if key not in self.shared:
            self.shared[key] = self.constant(np.array(numbers, dtype), "n")
        return self.shared[key]

    def apply(
        self, op_type: str, inputs: list[ir.Value], suffix: str, **attributes: object
    ) -> ir.Value:
        """Add a node with one output."""
        output = ir.Value(name=self.fresh_name(suffix))
        node = ir.node(op_type, inputs, attributes, outputs=[output])  # type: ignore[arg-type]
        # A name is optional and would be kept in the file for nothing.
        node.name = ""
        self.nodes.append(node)
        return output

"""Run an ONNX graph in PyTorch, with gradients for its initializers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from qqonnx.errors import QqonnxError, first_line
from qqonnx.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from qqonnx.finetune.operators import Operator

OLDEST_OPSET = 13
"""Oldest opset whose operators are known here."""


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes:
        title: its operator and, if it has one, its name.
        operator: computes it.
        attributes: numbers, strings, lists of them, and arrays.
        inputs: names of its inputs; empty where one is left out.
        outputs: names of its outputs; empty where one is not wanted.
        last_uses: values that no later node needs.
    """

    title: str
    operator: Operator
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last_uses: tuple[str, ...]


@dataclass(frozen=True)
class TorchGraph:
    """An ONNX graph that PyTorch runs on the CPU.

    Attributes:
        outputs: names of its outputs.
        constants: initializers and constants by name; all floats are float32.
        steps: the nodes in order.
    """

    outputs: tuple[str, ...]
    constants: dict[str, Tensor]
    steps: tuple[Step, ...]

    def __call__(
        self, inputs: Mapping[str, Tensor], constants: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """Compute the outputs.

        Without `torch.no_grad` they carry gradients for whatever tensor asks for them.

        Args:
            inputs: the graph's inputs by name, floats as float32.
            constants: stand in for initializers of the same names.

        Raises:
            QqonnxError: a node cannot be computed; names it.
        """
        values: dict[str, Any] = {**self.constants, **(constants or {}), **inputs, "": None}
        for step in self.steps:
            try:
                arguments = [values[name] for name in step.inputs]
                found = step.operator(step.attributes, *arguments)
            except NotImplementedError as error:
                raise QqonnxError(f"finetune: {step.title}: {error} is not supported") from error
            except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
                reason = first_line(error)
                raise QqonnxError(f"finetune: {step.title}: {reason}") from error
            results = found if isinstance(found, tuple) else (found,)
            for index, name in enumerate(step.outputs):
                if name and index >= len(results):
                    raise QqonnxError(f"finetune: {step.title}: output {index} is not supported")
                if name:
                    values[name] = results[index]
            del arguments, found, results
            for name in step.last_uses:
                del values[name]
        return [values[name] for name in self.outputs]


def compile_graph(model: ir.Model | onnx.ModelProto) -> TorchGraph:
    """Prepare a model to be run in PyTorch.

    Args:
        model: opset 13 or later; its graph has no subgraphs, which no classifier needs.

    Raises:
        QqonnxError: PyTorch is not installed, or an operator is not supported; names it.
    """
    import_extra("torch", "finetune")
    from qqonnx.finetune.operators import tensor_of

    if isinstance(model, onnx.ModelProto):
        model = ir.from_proto(model)
    opset = model.opset_imports.get("", OLDEST_OPSET)
    if opset < OLDEST_OPSET:
        raise QqonnxError(f"finetune: opset {opset} is not supported, only 13 and later")
    graph = model.graph
    outputs = tuple(str(value.name) for value in graph.outputs)
    constants: dict[str, Tensor] = {}
    nodes = []
    try:
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                constants[name] = tensor_of(value.const_value.numpy())
        for node in graph:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                constants[str(node.outputs[0].name)] = tensor_of(_constant(node))
            else:
                nodes.append(node)
    except NotImplementedError as error:
        raise QqonnxError(f"finetune: {error} is not supported") from error
    return TorchGraph(outputs, constants, _steps(nodes, {*constants, *outputs}))


def _steps(nodes: list[ir.Node], kept: set[str]) -> tuple[Step, ...]:
    """Return the nodes as steps; values in `kept` are never dropped."""
    named = [
        tuple("" if value is None else str(value.name) for value in node.inputs) for node in nodes
    ]
    uses = Counter(name for names in named for name in set(names))
    steps = []
    for node, inputs in zip(nodes, named, strict=True):
        uses.subtract(set(inputs))
        outputs = tuple(value.name or "" for value in node.outputs)
        unused = {name for name in outputs if not uses[name]}
        last = {name for name in inputs if not uses[name]} | unused
        steps.append(
            Step(
                title=f"{node.op_type} {node.name!r}" if node.name else node.op_type,
                operator=_operator(node),
                attributes=_attributes(node),
                inputs=inputs,
                outputs=outputs,
                last_uses=tuple(sorted(last - kept - {""})),
            )
        )
    return tuple(steps)


def _operator(node: ir.Node) -> Operator:
    from qqonnx.finetune.operators import OPERATORS

    known = node.domain in ("", "ai.onnx") and node.op_type in OPERATORS
    if not known:
        title = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise QqonnxError(f"finetune: operator {title} is not supported")
    return OPERATORS[node.op_type]


def _attributes(node: ir.Node) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        value: Any = attribute.value
        attributes[name] = value.numpy() if attribute.type == ir.AttributeType.TENSOR else value
    if node.op_type == "Split":
        # Before opset 18, the number of parts is that of the outputs.
        attributes.setdefault("num_outputs", len(node.outputs))
    return attributes


def _constant(node: ir.Node) -> np.ndarray[Any, Any]:
    ((name, attribute),) = node.attributes.items()
    if name == "value":
        return np.asarray(attribute.value.numpy())
    if name in ("value_float", "value_floats"):
        return np.array(attribute.value, np.float32)
    if name in ("value_int", "value_ints"):
        return np.array(attribute.value, np.int64)
    raise NotImplementedError("a constant of strings")

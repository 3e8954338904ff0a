"""Run an ONNX graph in PyTorch, with gradients for its initializers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from qqonnx.errors import QqonnxError, first_line
from qqonnx.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from qqonnx.finetune.operators import Operator

OLDEST_OPSET = 13
"""Oldest supported opset."""


@dataclass(frozen=True)
class Step:
    """A node of the graph.

    Attributes:
        title: operator and name (if any) of the node, for messages.
        operator: function that computes the node.
        attributes: attributes by name: numbers, strings, lists of them, and arrays.
        inputs: names of the inputs; "" for an omitted input.
        outputs: names of the outputs; "" for an omitted output.
        last_uses: names of the values that no later node needs.
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
        outputs: names of the outputs.
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

        Gradients are recorded unless the caller uses `torch.no_grad`.

        Args:
            inputs: the graph's inputs by name; floats are float32.
            constants: values that replace initializers of the same names.

        Raises:
            QqonnxError: a node cannot be computed; the message names the node.
        """
        values: dict[str, Any] = {**self.constants, **(constants or {}), **inputs, "": None}
        for step in self.steps:
            try:
                arguments = [values[name] for name in step.inputs]
                result = step.operator(step.attributes, *arguments)
            except NotImplementedError as error:
                raise QqonnxError(f"finetune: {step.title}: {error} is not supported") from error
            except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
                reason = first_line(error)
                raise QqonnxError(f"finetune: {step.title}: {reason}") from error
            results = result if isinstance(result, tuple) else (result,)
            for index, name in enumerate(step.outputs):
                if name and index >= len(results):
                    raise QqonnxError(f"finetune: {step.title}: output {index} is not supported")
                if name:
                    values[name] = results[index]
            del arguments, result, results
            for name in step.last_uses:
                del values[name]
        return [values[name] for name in self.outputs]


def compile_graph(model: ir.Model | onnx.ModelProto) -> TorchGraph:
    """Return a model in a form that PyTorch runs.

    Args:
        model: the model; opset 13 or later, without subgraphs.

    Raises:
        QqonnxError: PyTorch is not installed, or an operator is not supported; the message names
            the operator.
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
                constant = ir.convenience.get_const_tensor(node.outputs[0])
                assert constant is not None
                constants[str(node.outputs[0].name)] = tensor_of(constant.numpy())
            else:
                nodes.append(node)
    except (NotImplementedError, ValueError) as error:
        raise QqonnxError(f"finetune: a constant is not supported: {error}") from error
    return TorchGraph(outputs, constants, _steps(nodes, {*constants, *outputs}))


def _steps(nodes: list[ir.Node], kept: set[str]) -> tuple[Step, ...]:
    """Return the nodes as steps; values in `kept` stay until the end."""
    input_names = [
        tuple("" if value is None else str(value.name) for value in node.inputs) for node in nodes
    ]
    uses = Counter(name for names in input_names for name in set(names))
    steps = []
    for node, inputs in zip(nodes, input_names, strict=True):
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

    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        title = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise QqonnxError(f"finetune: operator {title} is not supported")
    return OPERATORS[node.op_type]


def _attributes(node: ir.Node) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        value: Any = attribute.value
        attributes[name] = value.numpy() if attribute.type == ir.AttributeType.TENSOR else value
    if node.op_type == "Split":
        # Before opset 18, the number of outputs is the number of parts.
        attributes.setdefault("num_outputs", len(node.outputs))
    return attributes

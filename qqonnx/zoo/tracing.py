"""PyTorch module to onnx_ir model: weights and graph, without traces of the exporting machine."""

from __future__ import annotations

import ast
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from qqonnx.errors import QqonnxError
from qqonnx.extras import import_extra
from qqonnx.logs import logging_disabled
from qqonnx.zoo.simplify import simplify as simplify_graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

INPUT, OUTPUT, BATCH = "input", "logits", "batch"
"""Names of the exported model's input, output and dynamic dimension."""

OLDEST_OPSET = 18
"""The opset of PyTorch's ONNX functions; conversion to older ones fails for most models.
ONNX Runtime reads it since 1.14."""

_FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"


def trace(
    module: nn.Module,
    images: Tensor,
    source: str,
    opset: int,
    metadata: Mapping[str, str],
    *,
    simplify: bool,
) -> ir.Model:
    """Return `module` as an ONNX model with a dynamic batch and folded batch normalization.

    Args:
        module: A module in eval mode that maps `images` to one tensor.
        images: float32 [at least 2, channels, height, width]; only the shape matters.
        source: Name of the model in error messages.
        opset: Version of the standard ONNX operators.
        metadata: metadata_props of the result.
        simplify: Pass the graph through onnxsim.

    Raises:
        QqonnxError: PyTorch cannot export the module at this opset.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise QqonnxError(f"opset {opset}: must be {OLDEST_OPSET} to {newest}")
    torch = import_extra("torch", "export")
    import_extra("onnxscript", "export")
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:  # the exporter wraps every error in its own types
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise QqonnxError(f"{source}: PyTorch cannot export it: {reason}") from error
        model: ir.Model = program.model
        _restore_parameter_names(model.graph, module)
        if simplify:
            model = ir.from_proto(simplify_graph(program.model_proto))
    if model.opset_imports[""] != opset:
        raise QqonnxError(f"{source}: PyTorch cannot export it at opset {opset}")
    _strip(model)
    _order_initializers(model.graph)
    _check_folded(model.graph, source)
    # The exporter sets a newer IR version than the opset needs, which old runtimes refuse.
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model.metadata_props.update(metadata)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and log messages, which the exporter writes for its developers."""
    with logging_disabled(logging.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _restore_parameter_names(graph: ir.Graph, module: nn.Module) -> None:
    """Give folded weights the names of the module's parameters.

    The exporter names the bias of a folded batch normalization "x.weight_bias" and the
    transposed weight of a linear layer "val_34".
    """
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    for value in list(graph.initializers.values()):
        name = str(value.name)
        if name.endswith(".weight_bias"):
            name = name.removesuffix("weight_bias") + "bias"
        else:
            folded_from = ast.literal_eval(value.metadata_props.get(_FOLDED_FROM, "[]"))
            same = [
                n
                for n in folded_from
                if value.const_value and sizes.get(n) == value.const_value.size
            ]
            name = same[0] if same else name
        if name not in graph.initializers:
            value.name = name


def _strip(model: ir.Model) -> None:
    """Remove the exporter's notes on nodes and values: stack traces with file paths, types.

    Intermediate shapes are removed too: runtimes infer them, and they would be larger than the
    graph.
    """
    graph = model.graph
    nodes = list(ir.traversal.RecursiveGraphIterator(graph))
    computed = [value for node in nodes for value in node.outputs]
    weights = graph.initializers.values()
    items: list[Any] = [model, graph, *graph.inputs, *weights, *nodes, *computed]
    for item in items:
        item.metadata_props.clear()
        item.doc_string = None
    for value in {*computed, *weights} - {*graph.outputs}:
        value.shape = value.type = None


def _order_initializers(graph: ir.Graph) -> None:
    """Sort initializers by first use; the order of the exporter differs between its versions."""
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    position: dict[ir.Value | None, int] = {}
    for value in (value for node in nodes for value in node.inputs):
        position.setdefault(value, len(position))
    values = sorted(graph.initializers.values(), key=lambda value: position.get(value, -1))
    graph.initializers.clear()
    for value in values:
        graph.initializers.add(value)


def _check_folded(graph: ir.Graph, source: str) -> None:
    """Refuse a batch normalization that could have been folded into the layer before it."""
    for node in graph:
        if node.op_type != "BatchNormalization" or node.inputs[0] is None:
            continue
        before = node.inputs[0].producer()
        if before is None or before.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        # An output that other nodes read too, as in residual connections, must not change.
        if len(node.inputs[0].uses()) == 1 and not node.inputs[0].is_graph_output():
            raise QqonnxError(
                f"{source}: batch normalization {node.name} was not folded into {before.name}; "
                "a newer onnxscript does it"
            )

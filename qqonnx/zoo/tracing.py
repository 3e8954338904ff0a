"""PyTorch module -> onnx_ir model that holds weights and graph, and nothing of this machine."""

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
    from pathlib import Path

    from torch import Tensor, nn

INPUT, OUTPUT, BATCH = "input", "logits", "batch"
"""Names of the exported model's input, output and dynamic dimension."""

OLDEST_OPSET = 18
"""PyTorch's ONNX functions are written in it; conversion to older ones fails on most models."""

_PROTOBUF_LIMIT = 2**31 - 2**20
"""Weights above this many bytes go to a second file: a protobuf message ends at 2 GiB."""

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
        module: In eval mode; takes `images`, gives one tensor.
        images: float32 [at least 2, channels, height, width]; only the shape matters.
        source: Names the model in error messages.
        opset: Version of the standard ONNX operators.
        metadata: Becomes the model's metadata_props.
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
        except Exception as error:  # the exporter wraps whatever happened in its own types
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
    # The exporter writes a newer IR version than the opset needs, which old runtimes refuse.
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model.metadata_props.update(metadata)
    return model


def write(model: ir.Model, path: Path) -> list[Path]:
    """Write the model to `path`, weights above 2 GB to `path` + ".data"; return the files."""
    weights = model.graph.initializers.values()
    if sum(value.const_value.nbytes for value in weights if value.const_value) <= _PROTOBUF_LIMIT:
        ir.save(model, path)
        return [path]
    data = path.with_name(path.name + ".data")
    ir.save(model, path, external_data=data.name)
    return [path, data]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings and log lines, which speak to its developers, off stderr."""
    with logging_disabled(logging.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _restore_parameter_names(graph: ir.Graph, module: nn.Module) -> None:
    """Name folded weights after the module's parameters again.

    The exporter names the bias of a folded batch normalization "x.weight_bias", and the
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
    """Remove what the exporter notes on each node and value: stack traces with file paths, types.

    Intermediate shapes go too: runtimes infer them, and they would weigh more than the graph.
    """
    graph = model.graph
    nodes = list(ir.traversal.RecursiveGraphIterator(graph))
    computed = [value for node in nodes for value in node.outputs]
    noted: list[Any] = [
        model,
        graph,
        *graph.inputs,
        *graph.initializers.values(),
        *nodes,
        *computed,
    ]
    for item in noted:
        item.metadata_props.clear()
        item.doc_string = None
    for value in {*computed, *graph.initializers.values()} - {*graph.outputs}:
        value.shape = value.type = None


def _order_initializers(graph: ir.Graph) -> None:
    """Sort initializers by first use: the exporter's own order differs between its versions."""
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    position: dict[ir.Value | None, int] = {}
    for value in (value for node in nodes for value in node.inputs):
        position.setdefault(value, len(position))
    values = sorted(graph.initializers.values(), key=lambda value: position.get(value, -1))
    graph.initializers.clear()
    for value in values:
        graph.initializers.add(value)


def _check_folded(graph: ir.Graph, source: str) -> None:
    for node in graph:
        if node.op_type != "BatchNormalization" or node.inputs[0] is None:
            continue
        before = node.inputs[0].producer()
        if before is None or before.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        # What others read too, as a residual connection does, has to stay as it is.
        if len(node.inputs[0].uses()) == 1 and not node.inputs[0].is_graph_output():
            raise QqonnxError(
                f"{source}: batch normalization {node.name} was not folded into {before.name}; "
                "a newer onnxscript does it"
            )

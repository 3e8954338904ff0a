"""Round activations to uint8 with fixed ranges, by the quantizer of ONNX Runtime."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime.quantization import (
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorData,
    TensorsData,
    quant_pre_process,
)
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from qqonnx.encoding.rewrite import fresh_names
from qqonnx.errors import QqonnxError, first_line
from qqonnx.evaluation.divergence import output_divergence
from qqonnx.integer.float_parts import MIN_DIVERGENCE, PAYS, float_parts, tail_of
from qqonnx.integer.layers import LAYERS, layers
from qqonnx.integer.ranges import observe
from qqonnx.integer.record import take_bounds, write_bounds
from qqonnx.logs import logging_disabled
from qqonnx.model.save import PROTOBUF_LIMIT, write
from qqonnx.model.scopes import value_names
from qqonnx.model.session import open_session, run_session
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from qqonnx.integer.record import Bounds

    Feed = Mapping[str, NDArray[Any]]
    Ranges = Mapping[str, tuple[float, float]]

JUDGED_SAMPLES = 32
"""Number of samples on which ranges are compared."""

_FLOAT_OPERATORS = {
    "BatchNormalization",
    "ConvTranspose",
    "CumSum",
    "InstanceNormalization",
    "LayerNormalization",
}
"""Operators that ONNX Runtime's quantizer rounds, but its CPU kernels compute in float only."""

_OPERATORS = sorted({*QDQRegistry, *QLinearOpsRegistry} - _FLOAT_OPERATORS)


def round_statically(model: ir.Model, feeds: Sequence[Feed], kept: Collection[str]) -> ir.Model:
    """Return a copy of a model that rounds its activations to uint8; the weights stay floats.

    QuantizeLinear and DequantizeLinear are placed by ONNX Runtime's quantizer, after its own basic
    optimizations (which fold batch normalizations). The ranges of the activations are the whole
    ones, or those with the least error of rounding, whichever changes the outputs less. Parts whose
    rounding loses too much stay in floats; see `float_parts`.

    Args:
        model: the float model.
        feeds: inputs of the runs that show the ranges.
        kept: names of weights whose layers keep their float inputs.

    Raises:
        QqonnxError: the model is too large, or ONNX Runtime does not run or quantize it.
    """
    with temporary_folder() as folder:
        prepared = _prepared(model, folder)
        activations = observe(_with_all_outputs(prepared, folder), feeds)
        graph = ir.from_proto(prepared)
        excluded = [
            node.name or ""
            for node in graph.graph
            if node.op_type in LAYERS and node not in set(layers(graph))
        ]
        excluded += [
            node.name or ""
            for node in layers(graph)
            if node.inputs[1] is not None and node.inputs[1].name in kept
        ]
        names = set(value_names(graph))
        judged = feeds[: max(JUDGED_SAMPLES // max(map(len, feeds[0].values())), 1)]
        references = _outputs(prepared, judged, folder)

        def rounded_by(ranges: Ranges, floats: Sequence[str]) -> tuple[float, ir.Model]:
            candidate = _rounded(prepared, ranges, [*excluded, *floats], names)
            outputs = _outputs(ir.to_proto(candidate), judged, folder)
            return _loss(references, outputs), candidate

        def best_ranges(floats: Sequence[str]) -> tuple[float, ir.Model, Ranges]:
            choices = [
                {name: getattr(seen, choice) for name, seen in activations.items()}
                for choice in ("whole", "least_error")
            ]
            found = [(*rounded_by(ranges, floats), ranges) for ranges in choices]
            return min(found, key=lambda entry: entry[0])

        floats: list[str] = []
        loss, rounded, ranges = best_ranges(floats)
        if loss > MIN_DIVERGENCE and (tail := tail_of(graph)):
            other = best_ranges(tail)
            if other[0] <= PAYS * loss:
                (loss, rounded, ranges), floats = other, tail
        parts = float_parts(graph, lambda names: rounded_by(ranges, [*floats, *names])[0], loss)
        if parts:
            rounded = _rounded(prepared, ranges, [*excluded, *floats, *parts], names)
    rounded.ir_version = model.ir_version
    bounds = take_bounds(rounded)
    rounded.metadata_props.clear()
    rounded.metadata_props.update(model.metadata_props)
    write_bounds(rounded, bounds or {})
    rounded.producer_name, rounded.producer_version = model.producer_name, model.producer_version
    return rounded


def _prepared(model: ir.Model, folder: Path) -> onnx.ModelProto:
    """Return the model after ONNX Runtime's basic optimizations, with types and unique names."""
    source, target = folder / "model.onnx", folder / "prepared.onnx"
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    tensors = [value.const_value for value in values if value.const_value is not None]
    if sum(tensor.nbytes for tensor in tensors) > PROTOBUF_LIMIT:
        raise QqonnxError(
            "int8-static takes models of at most 2 GB; int8-dynamic takes larger ones"
        )
    write(model, source)
    try:
        with logging_disabled(logging.CRITICAL):
            quant_pre_process(source, target, skip_symbolic_shape=True)
        proto = onnx.load(target)
    except Exception as error:  # whatever ONNX Runtime raises
        raise QqonnxError(f"ONNX Runtime cannot prepare it: {first_line(error)}") from error
    for number, node in enumerate(proto.graph.node):
        node.name = f"{number}"
    return proto


def _with_all_outputs(proto: onnx.ModelProto, folder: Path) -> Path:
    """Write a model whose outputs are all values of its graph; return the file."""
    extended = onnx.ModelProto()
    extended.CopyFrom(proto)
    present = {value.name for value in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name]
    extended.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in present
    )
    path = folder / "outputs.onnx"
    path.write_bytes(extended.SerializeToString())
    return path


def _rounded(
    prepared: onnx.ModelProto, ranges: Ranges, excluded: Sequence[str], names: Collection[str]
) -> ir.Model:
    """Return the model with rounded activations."""
    proto = onnx.ModelProto()
    proto.CopyFrom(prepared)
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(max(high, low + 1e-6)))
        for name, (low, high) in ranges.items()
    }
    options = {"AddQDQPairToWeight": True, "QuantizeBias": False}
    try:
        with logging_disabled(logging.CRITICAL):
            quantizer = QDQQuantizer(
                proto,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=TensorsData(CalibrationMethod.MinMax, data),
                nodes_to_quantize=[],
                nodes_to_exclude=list(excluded),
                op_types_to_quantize=_OPERATORS,
                extra_options=options,
            )
            quantizer.quantize_model()
    except Exception as error:  # whatever ONNX Runtime raises
        raise QqonnxError(f"ONNX Runtime cannot quantize it: {first_line(error)}") from error
    model: ir.Model = ir.from_proto(quantizer.model.model)
    model.graph.sort()
    for node in list(model.graph):
        if node.op_type == "QuantizeLinear":
            _keep_float(node)
    clipped = _clipped_values(model, _removed_bounds(prepared, quantizer.model.model))
    _tidy(model, names)
    write_bounds(model, {value.name or "": bounds for value, bounds in clipped.items()})
    return model


def _removed_bounds(prepared: onnx.ModelProto, rounded: onnx.ModelProto) -> dict[str, Bounds]:
    """Return the bounds of each Relu and Clip that the quantizer removed, by its output."""
    constants = {tensor.name: tensor for tensor in prepared.graph.initializer}
    kept = {node.name for node in rounded.graph.node}
    bounds: dict[str, Bounds] = {}
    for node in prepared.graph.node:
        if node.name in kept or node.op_type not in ("Relu", "Clip"):
            continue
        ends = [
            float(onnx.numpy_helper.to_array(constants[name])) if name in constants else None
            for name in node.input[1:]
        ]
        low, high = (*ends, None, None)[:2] if node.op_type == "Clip" else (0.0, None)
        bounds[node.output[0]] = low, high
    return bounds


def _clipped_values(model: ir.Model, removed: Mapping[str, Bounds]) -> dict[ir.Value, Bounds]:
    """Return the values that are rounded where a Relu or a Clip was, with its bounds."""
    clipped = {}
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value is not None:
            # In front of an output, the quantizer gives another name.
            name = (value.name or "").removesuffix("_QuantizeLinear_Input")
            if name in removed:
                clipped[value] = removed[name]
    return clipped


def _keep_float(node: ir.Node) -> None:
    """Remove the rounding of a constant that only layers read as their weight."""
    weight = node.inputs[0]
    assert weight is not None
    graph = node.graph
    readers = [reader for reader, _ in node.outputs[0].uses()]
    users = [use for reader in readers for use in reader.outputs[0].uses()]
    if not weight.is_initializer() or graph is None:
        return
    if all(user.op_type in LAYERS and index == 1 for user, index in users):
        for reader in readers:
            ir.convenience.replace_all_uses_with(reader.outputs[0], weight)
            graph.remove(reader, safe=True)
        graph.remove(node, safe=True)


def _tidy(model: ir.Model, names: Collection[str]) -> None:
    """Remove what nothing uses, and give short names to what the quantizer added."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    fresh_name = fresh_names(model)
    added = [*graph.initializers.values(), *(out for node in graph for out in node.outputs)]
    for value in added:
        if value.name not in names and not value.is_graph_output():
            value.name = fresh_name("q")
    domains = {node.domain for node in graph.all_nodes()} | {""}
    domains |= {node.domain for function in model.functions.values() for node in function}
    for domain in set(graph.opset_imports) - domains:
        del graph.opset_imports[domain]
    for node in graph:
        node.name = ""


def _loss(
    references: Sequence[Mapping[str, NDArray[Any]]], outputs: Sequence[Mapping[str, NDArray[Any]]]
) -> float:
    """Return the mean divergence of a run, summed over the outputs."""
    return sum(
        output_divergence(reference[name], found[name], name)
        for reference, found in zip(references, outputs, strict=True)
        for name in reference
    ) / len(references)


def _outputs(
    proto: onnx.ModelProto, feeds: Sequence[Feed], folder: Path
) -> list[dict[str, NDArray[Any]]]:
    path = folder / "judged.onnx"
    path.write_bytes(proto.SerializeToString())
    session = open_session(path, spinning=False, without=["WeightBiasQuantization"])
    names = [out.name for out in session.get_outputs() if out.type.startswith("tensor(")]
    return [dict(zip(names, run_session(session, feed, names), strict=True)) for feed in feeds]

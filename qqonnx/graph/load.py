"""Read a model: external data stays on disk, old opsets are brought to one that can decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import version_converter

from qqonnx.errors import QqonnxError, first_line

if TYPE_CHECKING:
    from pathlib import Path

MIN_OPSET = 13
"""Oldest opset that the decode nodes are written in; older models are converted to it."""


def load(path: Path) -> ir.Model:
    """Read an ONNX file. Tensors in external data are mapped from disk when they are used.

    Raises:
        QqonnxError: there is no such file, it is no ONNX model, its external data is missing or
            lies outside the model's folder, or its opset cannot be converted to 13.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise QqonnxError(f"{path}: {error.strerror or error}") from error
    except (DecodeError, ValueError) as error:
        raise QqonnxError(f"{path}: not an ONNX model, or a damaged one") from error
    opsets = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise QqonnxError(f"{path}: not an ONNX model, or an empty one")
    if opsets and opsets[0] < MIN_OPSET:
        proto = _converted(proto, path, opsets[0])
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise QqonnxError(f"{path}: damaged ONNX model: {first_line(error)}") from error
    _resolve_external_data(model, path)
    return model


def _converted(proto: onnx.ModelProto, path: Path, opset: int) -> onnx.ModelProto:
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
        converted = version_converter.convert_version(proto, MIN_OPSET)
    except Exception as error:
        raise QqonnxError(
            f"{path}: opset {opset} cannot be converted to {MIN_OPSET}: {first_line(error)}"
        ) from error
    # The converter drops what it does not know of.
    del converted.metadata_props[:]
    converted.metadata_props.extend(proto.metadata_props)
    # Before IR version 4 every initializer had to be listed as an input too.
    if proto.ir_version < 4:
        names = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value for value in converted.graph.input if value.name not in names]
        del converted.graph.input[:]
        converted.graph.input.extend(inputs)
    converted.ir_version = max(proto.ir_version, 7)
    return converted


def _resolve_external_data(model: ir.Model, path: Path) -> None:
    folder = path.parent.resolve()
    ir.external_data.set_base_dir(model.graph, path.parent)
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            file = path.parent / tensor.location
            if not file.resolve().is_relative_to(folder):
                raise QqonnxError(
                    f"{path}: tensor {value.name!r} lies outside the model's folder: "
                    f"{tensor.location}"
                )
            if not file.is_file():
                raise QqonnxError(f"{path}: external data file {tensor.location} is missing")
            end = (tensor.offset or 0) + tensor.nbytes
            if file.stat().st_size < end:
                raise QqonnxError(f"{path}: external data file {tensor.location} is truncated")

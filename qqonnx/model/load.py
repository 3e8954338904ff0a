"""Read a model: external data stays on disk, old opsets are brought to one that can decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import version_converter

from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.compare import compare_outputs
from qqonnx.model.validate import check, sorted_already
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from pathlib import Path

MIN_OPSET = 13
"""Oldest opset that the decode nodes are written in; older models are converted to it."""

OLDEST_IR_VERSION = 7
"""IR version that opset 13 came with."""


def load(path: Path) -> ir.Model:
    """Read an ONNX file and bring it to an opset that can decode, keeping what it computes.

    Raises:
        QqonnxError: as for `read`; or its opset cannot be converted to 13.
    """
    model = read(path)
    opset = model.opset_imports.get("", MIN_OPSET)
    if opset >= MIN_OPSET:
        return model
    try:
        proto = ir.to_proto(model)
        onnx.load_external_data_for_model(proto, str(path.parent))
        converted = version_converter.convert_version(proto, MIN_OPSET)
        # The converter drops what it does not know of.
        del converted.metadata_props[:]
        converted.metadata_props.extend(proto.metadata_props)
        converted.ir_version = max(proto.ir_version, OLDEST_IR_VERSION)
        _check_conversion(path, converted)
    except Exception as error:
        raise QqonnxError(
            f"{path}: opset {opset} cannot be converted to {MIN_OPSET}: {first_line(error)}"
        ) from error
    return ir.from_proto(converted)


def read(path: Path) -> ir.Model:
    """Read an ONNX file. Tensors in external data are mapped from disk when they are used.

    Raises:
        QqonnxError: there is no such file, it is no ONNX model, or a damaged one; see
            `qqonnx.model.validate`.
    """
    # A named pipe would keep the reader waiting.
    if path.exists() and not path.is_file():
        raise QqonnxError(f"{path}: not a file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise QqonnxError(f"{path}: {error.strerror or error}") from error
    except (DecodeError, ValueError) as error:
        raise QqonnxError(f"{path}: not an ONNX model, or a damaged one") from error
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise QqonnxError(f"{path}: not an ONNX model, or an empty one")
    check(proto, path)
    # Before IR version 4 every initializer had to be listed as an input too.
    if proto.ir_version < 4:
        names = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value for value in proto.graph.input if value.name not in names]
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)
        proto.ir_version = OLDEST_IR_VERSION
    try:
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
        tops: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        for graph in tops:
            if not sorted_already(graph):
                graph.sort()
    except Exception as error:
        raise QqonnxError(f"{path}: damaged ONNX model: {first_line(error)}") from error
    return model


def model_files(model: ir.Model, path: Path) -> list[Path]:
    """Return the file that `model` was read from and those of its external data."""
    tensors = (v.const_value for g in model.graphs() for v in g.initializers.values())
    data = {path.parent / t.location for t in tensors if isinstance(t, ir.ExternalTensor)}
    return [path, *sorted(data - {path})]


def file_bytes(model: ir.Model, path: Path) -> int:
    """Return the bytes of the file that `model` was read from and of its external data."""
    return sum(file.stat().st_size for file in model_files(model, path))


def _check_conversion(path: Path, converted: onnx.ModelProto) -> None:
    """Compare outputs before and after: ONNX's converter does not know every operator's past."""
    with temporary_folder() as folder:
        file = folder / path.name
        data = f"{path.name}.data"
        onnx.save(converted, file, save_as_external_data=True, location=data)
        # Saving has moved the tensors out of the model.
        onnx.load_external_data_for_model(converted, str(folder))
        check = compare_outputs(path, file)
    if check.reason is None and not check.equal:
        raise QqonnxError(f"outputs differ by {check.max_difference:.2g} then")

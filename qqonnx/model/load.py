"""Load a model: external data stays on disk, and old opsets are converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import version_converter

from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.compare import compare_outputs
from qqonnx.model.validate import check, is_sorted
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from pathlib import Path

MIN_OPSET = 13
"""Opset of the decode nodes; older models are converted to it."""

OLDEST_IR_VERSION = 7
"""IR version that introduced opset 13."""


def load(path: Path) -> ir.Model:
    """Read an ONNX file and convert it to `MIN_OPSET` if its opset is older.

    Raises:
        QqonnxError: as for `read`; or the model cannot be converted, or the converted model has
            different outputs.
    """
    model = read(path)
    opset = model.opset_imports.get("", MIN_OPSET)
    if opset >= MIN_OPSET:
        return model
    try:
        proto = ir.to_proto(model)
        onnx.load_external_data_for_model(proto, str(path.parent))
        converted = version_converter.convert_version(proto, MIN_OPSET)
        # The converter drops the metadata.
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
        QqonnxError: the file does not exist, is not an ONNX model or is damaged; see
            `qqonnx.model.validate`.
    """
    # Opening a named pipe would block.
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
    # Before IR version 4, every initializer also had to be an input.
    if proto.ir_version < 4:
        names = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value for value in proto.graph.input if value.name not in names]
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)
        proto.ir_version = OLDEST_IR_VERSION
    try:
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
        graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        for graph in graphs:
            if not is_sorted(graph):
                graph.sort()
    except Exception as error:
        raise QqonnxError(f"{path}: damaged ONNX model: {first_line(error)}") from error
    return model


def fix_initializers(model: ir.Model) -> None:
    """Make initializers that are also inputs of the model constants, in place."""
    initializers = set(model.graph.initializers.values())
    model.graph.inputs[:] = [v for v in model.graph.inputs if v not in initializers]


def model_files(model: ir.Model, path: Path) -> list[Path]:
    """Return the file `path` that `model` was read from, and the files of its external data."""
    tensors = (v.const_value for g in model.graphs() for v in g.initializers.values())
    data = {path.parent / t.location for t in tensors if isinstance(t, ir.ExternalTensor)}
    return [path, *sorted(data - {path})]


def file_bytes(model: ir.Model, path: Path) -> int:
    """Return the total size in bytes of `model_files`."""
    return sum(file.stat().st_size for file in model_files(model, path))


def _check_conversion(path: Path, converted: onnx.ModelProto) -> None:
    """Compare the outputs before and after: ONNX's converter gets some operators wrong."""
    with temporary_folder() as folder:
        file = folder / path.name
        data = f"{path.name}.data"
        onnx.save(converted, file, save_as_external_data=True, location=data)
        # Saving moved the tensors out of the model.
        onnx.load_external_data_for_model(converted, str(folder))
        comparison = compare_outputs(path, file)
    if comparison.reason is None and not comparison.equal:
        raise QqonnxError(f"the outputs would differ by {comparison.max_difference:.2g}")

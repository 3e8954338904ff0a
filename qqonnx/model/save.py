"""Atomic writing of ONNX models, with or without external data."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from qqonnx.errors import QqonnxError, first_line
from qqonnx.temporary import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOBUF_LIMIT = 2**31 - 2**20
"""Largest model in one file: the limit of protobuf, less some space for the graph."""

SMALL_BYTES = 256
"""Tensors up to this size stay in the ONNX file when others become external data."""

LARGEST_SIZES = 2**16
"""Largest bytes of integers that may be sizes; larger ones are numbers of another kind."""


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Write a model with `atomic_write`; errors become a `QqonnxError` that names `path`.

    The block writes the model, and its external data beside it, to the path that it receives.

    Raises:
        QqonnxError: `path` cannot be written, or the block raised an OSError or could not
            serialize the model.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        with atomic_write(path) as written:
            try:
                yield written
            except (ir.serde.SerdeError, EncodeError) as error:
                # Each level of the graph wraps the error; only the innermost one names the cause.
                cause: BaseException = error
                while cause.__cause__ is not None and not isinstance(cause, QqonnxError):
                    cause = cause.__cause__
                reason = first_line(cause)
                raise QqonnxError(f"{path}: cannot be written as ONNX: {reason}") from error
            except QqonnxError as error:
                if str(written) not in str(error):
                    raise
                # Users know the target, not the temporary file.
                raise QqonnxError(str(error).replace(str(written), str(path))) from error
    except OSError as error:
        # An error of numpy has no strerror, only the number of bytes written.
        reason = error.strerror or f"{error}: the disk may be full"
        raise QqonnxError(f"{path}: cannot write: {reason}") from error


def data_file(path: Path) -> Path:
    """Return the path of the external data of the model at `path`."""
    return path.with_name(f"{path.name}.data")


def rename_data(path: Path, name: str) -> Path:
    """Give the external data of the model at `path` another name; return its path.

    Args:
        path: a model that `write` wrote with external data.
        name: file name of the external data.
    """
    old, new = data_file(path), path.with_name(name)
    if new == old:
        return old
    model = onnx.load(path, load_external_data=False)
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == old.name:
                entry.value = name
    old.replace(new)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return new


def written_bytes(path: Path) -> int:
    """Return the size in bytes of a model that `write` wrote, including external data."""
    # Tensors in functions are never external data, so there may be no second file.
    files = [file for file in (path, data_file(path)) if file.exists()]
    return sum(file.stat().st_size for file in files)


def write(model: ir.Model, path: Path, *, external_data: bool = False) -> None:
    """Write a model; tensors go to `data_file(path)` on request, or if they exceed 2 GB in total.

    External data is written tensor by tensor. The model itself does not change.

    Args:
        model: the model; its external tensors are read.
        path: the file to write.
        external_data: whether to write tensors to a second file.

    Raises:
        OSError: the file cannot be written.
    """
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    before = [(value, value.type, value.shape, value.const_value) for value in values]
    try:
        for value, *_, tensor in before:
            if tensor is not None and not (value.is_graph_output() or value.is_graph_input()):
                # The tensor has a type and a shape, which need not be stored twice.
                value.type = value.shape = None
        total = sum(tensor.nbytes for *_, tensor in before if tensor is not None)
        if external_data or total > PROTOBUF_LIMIT:
            proto = _with_external_tensors(model, values, path)
        else:
            proto = _with_inline_tensors(model, values)
            # An earlier model at this path may have had external data.
            data_file(path).unlink(missing_ok=True)
    finally:
        for value, kind, shape, tensor in before:
            value.type, value.shape, value.const_value = kind, shape, tensor
    path.write_bytes(proto.SerializeToString(deterministic=True))


def refuse_overwriting(model: ir.Model, source: Path, path: Path) -> None:
    """Refuse to overwrite the external data of a model that is being read.

    Args:
        model: the model.
        source: the file that the model was read from.
        path: the file to write; it may be `source`.

    Raises:
        QqonnxError: `path` is not `source`, but `path` or its `data_file` contains tensors of
            `model`.
    """
    if path.resolve() == source.resolve():
        return
    targets = {path.resolve(), data_file(path).resolve()}
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).resolve() in targets:
                raise QqonnxError(
                    f"{path}: would overwrite {tensor.location}, which holds the tensors of the "
                    "model being read; choose another name"
                )


def save(model: ir.Model, path: Path, *, external_data: bool = False) -> None:
    """Write a model atomically; see `write`.

    Raises:
        QqonnxError: the file cannot be written.
    """
    with staged(path) as written:
        write(model, written, external_data=external_data)


def _with_external_tensors(model: ir.Model, values: list[ir.Value], path: Path) -> onnx.ModelProto:
    """Write the tensors to the data file of `path` and return the rest of the model."""
    inline = [(value, value.const_value) for value in values if _stays_inline(value.const_value)]
    for value, _ in inline:
        value.const_value = None
    ir.external_data.unload_from_model(
        model, path.parent, data_file(path).name, size_threshold_bytes=SMALL_BYTES
    )
    for value, tensor in inline:
        value.const_value = tensor
    return ir.to_proto(model)


def _stays_inline(tensor: ir.TensorProtocol | None) -> bool:
    """Return whether a tensor cannot be external data.

    Strings cannot, and shape inference of ONNX Runtime does not read sizes (of Split, Reshape or
    Slice) from another file.
    """
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return tensor is not None
    integers = tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return integers and len(tensor.shape) <= 1 and tensor.nbytes <= LARGEST_SIZES


def _with_inline_tensors(model: ir.Model, values: list[ir.Value]) -> onnx.ModelProto:
    for value in values:
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    return ir.to_proto(model)

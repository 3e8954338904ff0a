"""Write a model so that the target appears whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOBUF_LIMIT = 2**31 - 2**20
"""Largest model in one file; what protobuf can hold, less room for the graph."""


def save(
    model: ir.Model,
    path: Path,
    *,
    external_data: bool = False,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write `model` to `path`, and its tensors to `path`.data if asked or if over 2 GB.

    The files are written and checked in a folder beside the target and then moved.

    Args:
        model: the model, unchanged.
        path: the file to write.
        external_data: tensors go into a second file, `path` with ".data" appended.
        check: is given the written file before it is moved; what it raises stops the move.

    Raises:
        QqonnxError: the file cannot be written.
    """
    total = sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )
    data_name = f"{path.name}.data" if external_data or total > PROTOBUF_LIMIT else None
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".qqonnx-") as folder:
            written = Path(folder) / path.name
            if data_name is None:
                # Tensors that were external come into the file, which can then stand alone.
                proto = ir.to_proto(_with_inline_tensors(model))
                written.write_bytes(proto.SerializeToString(deterministic=True))
            else:
                ir.save(model, written, format="protobuf", external_data=data_name)
            if check is not None:
                check(written)
            if data_name is not None:
                (written.parent / data_name).replace(path.parent / data_name)
            written.replace(path)
    except OSError as error:
        raise QqonnxError(f"{path}: cannot write: {error.strerror or error}") from error


def _with_inline_tensors(model: ir.Model) -> ir.Model:
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    return model

"""Files of models that callers pass as a path or as an object in memory."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from qqonnx.errors import OptionError, QqonnxError
from qqonnx.model.save import write
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ModelSource = str | os.PathLike[str] | onnx.ModelProto | ir.Model
"""A model as public functions take it: the path of an ONNX file, or a model in memory."""

IN_MEMORY = "model.onnx"
"""File name of a model in memory."""


def model_list(models: ModelSource | Sequence[ModelSource]) -> list[ModelSource]:
    """Return one model or several as a list."""
    if isinstance(models, (str, os.PathLike, onnx.ModelProto, ir.Model)):
        return [models]
    return list(models)


@contextmanager
def model_file(model: ModelSource) -> Iterator[Path]:
    """Provide the path of a model's file; a model in memory is written to a temporary file.

    Errors that the block raises call a model in memory "the model".

    Raises:
        OptionError: `model` is neither a path nor a model.
        QqonnxError: a model in memory refers to external data or cannot be written.
    """
    if isinstance(model, (str, os.PathLike)):
        yield Path(model)
        return
    if not isinstance(model, (onnx.ModelProto, ir.Model)):
        raise OptionError("model", f"must be a path or an ONNX model, not {type(model).__name__}")
    with temporary_folder() as folder:
        path = folder / IN_MEMORY
        _write(model, path)
        try:
            yield path
        except QqonnxError as error:
            if str(path) not in str(error):
                raise
            raise QqonnxError(str(error).replace(str(path), "the model")) from error


def _write(model: onnx.ModelProto | ir.Model, path: Path) -> None:
    if isinstance(model, ir.Model):
        write(model, path)
        return
    if any(map(onnx.external_data_helper.uses_external_data, model.graph.initializer)):
        raise QqonnxError(
            "the model refers to external data, whose folder is not known: "
            "pass the path of its file, or load the data first"
        )
    try:
        path.write_bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise QqonnxError("the model is over 2 GB: pass the path of its file") from error

"""Write a compressed model with plain float weights again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.encoding.restore import restore_weights
from qqonnx.errors import QqonnxError
from qqonnx.model.load import read
from qqonnx.model.save import refuse_overwriting, save
from qqonnx.model.source import ModelSource, model_file

if TYPE_CHECKING:
    import os


def restore(
    model: ModelSource, output: str | os.PathLike[str], *, external_data: bool = False
) -> int:
    """Write a compressed model with plain float weights again.

    Args:
        model: the path of a file that `compress` wrote, or such a model in memory.
        output: the file to write.
        external_data: put tensors into a second file, `output` with ".data" appended.

    Returns:
        The number of weights that are plain again.

    Raises:
        QqonnxError: the model cannot be read, was not compressed by qqonnx, or the output cannot be
            written.
    """
    with model_file(model) as source:
        graph = read(source)
        try:
            count = restore_weights(graph)
        except QqonnxError as error:
            raise QqonnxError(f"{source}: {error}") from error
        refuse_overwriting(graph, source, Path(output))
        save(graph, Path(output), external_data=external_data)
        return count

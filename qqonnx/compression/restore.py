"""Write a compressed model with plain weights again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.encoding.restore import restore_weights
from qqonnx.errors import OptionError, QqonnxError
from qqonnx.integer.floats import multiplies_integers, ranges, restore_floats
from qqonnx.integer.record import take_bounds
from qqonnx.model.load import read
from qqonnx.model.save import refuse_overwriting, save
from qqonnx.model.source import ModelSource, model_file

if TYPE_CHECKING:
    import os


def restore(
    model: ModelSource,
    output: str | os.PathLike[str],
    *,
    external_data: bool = False,
    as_float: bool = False,
) -> int:
    """Write a compressed model with plain weights again.

    The weights are floats, but those of a model that multiplies integers are int8 or uint8.

    Args:
        model: the path of a file that `compress` wrote, or such a model in memory.
        output: the file to write.
        external_data: put tensors into a second file, `output` with ".data" appended.
        as_float: let a model that multiplies integers multiply floats, with activations that are
            not rounded.

    Returns:
        The number of weights that are plain again.

    Raises:
        OptionError: `as_float` for a model that does not multiply integers.
        QqonnxError: the model cannot be read, was not compressed by qqonnx, or the output cannot be
            written.
    """
    with model_file(model) as source:
        graph = read(source)
        try:
            bounds = take_bounds(graph)
            count = restore_weights(graph)
            if as_float:
                if not multiplies_integers(graph):
                    raise OptionError("as_float", "only for files that multiply integers")
                restore_floats(graph, ranges(graph) if bounds is None else bounds)
        except OptionError:
            raise
        except QqonnxError as error:
            raise QqonnxError(f"{source}: {error}") from error
        refuse_overwriting(graph, source, Path(output))
        save(graph, Path(output), external_data=external_data)
        return count

"""Read inputs of any form: images, stacked arrays, or one run at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.errors import QqonnxError
from qqonnx.functions import is_function_name
from qqonnx.inputs.feeds import (
    feed_folder,
    feeds_of_function,
    given_feeds,
    read_arrays,
    stacked_feeds,
)
from qqonnx.inputs.images import BATCH, holds_images, read_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.inputs.feeds import Feed

    InputData = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Inputs:
    """Inputs of some runs of a model.

    Attributes:
        feeds: arrays by input name, for each run.
        count: number of samples.
        batch_size: samples per run; the last run can have fewer.
        source: description of the inputs for the user.
        unreadable: image files that could not be read.
        others: what else the data hold, such as labels, by name, for each run.
    """

    feeds: tuple[Feed, ...]
    count: int
    batch_size: int
    source: str
    unreadable: tuple[str, ...] = ()
    others: tuple[Mapping[str, Any], ...] = ()

    def batches(self) -> Iterator[Feed]:
        """Yield the inputs of each run."""
        yield from self.feeds


def feed_samples(feed: Mapping[str, NDArray[Any]]) -> int:
    """Return the number of samples of a run: the size of the largest first axis."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)


def model_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the inputs that have no default value.

    Raises:
        QqonnxError: there are none.
    """
    declared = [value for value in model.graph.inputs if value.const_value is None]
    if not declared:
        raise QqonnxError("the model has no inputs")
    return declared


def read_inputs(
    model: ir.Model, data: InputData, max_samples: int, *, shuffled: bool = False
) -> Inputs:
    """Read samples that fit the inputs of a model.

    Args:
        model: the model.
        data: a folder of images, searched recursively; an .npy or .npz file with stacked inputs; an
            .npz file with `images` uint8 [n, height, width(, 3)], to which the model's
            preprocessing is applied; a folder of .npz files with the inputs of one run each, or a
            function that yields such inputs, named "module:function", or the inputs themselves.
        max_samples: largest number of samples, or of runs.
        shuffled: mix stacked samples, always in the same way, so that each run has samples of all
            kinds.

    Raises:
        QqonnxError: the data cannot be read, or do not fit the model's inputs.
    """
    declared = model_inputs(model)
    inputs = _read(model, declared, data, max_samples, shuffled)
    names = {value.name or "" for value in declared}
    return replace(
        inputs,
        feeds=tuple({n: feed[n] for n in feed if n in names} for feed in inputs.feeds),
        others=tuple({n: feed[n] for n in feed if n not in names} for feed in inputs.feeds),
    )


def _read(
    model: ir.Model,
    declared: Sequence[ir.Value],
    data: InputData,
    max_samples: int,
    shuffled: bool,
) -> Inputs:
    if isinstance(data, str) and is_function_name(data):
        return _runs(given_feeds(declared, feeds_of_function(data), max_samples, data), data)
    if not isinstance(data, (str, os.PathLike)):
        return _runs(given_feeds(declared, data, max_samples, "given inputs"), "given inputs")
    path = Path(data)
    files = sorted(path.glob("*.npz")) if path.is_dir() else []
    if files:
        return _runs(feed_folder(declared, files, max_samples), path.name)
    unreadable: tuple[str, ...] = ()
    if path.is_dir() or holds_images(path):
        images, unreadable = read_images(model, declared, path, max_samples)
        arrays = {declared[0].name or "": images}
    else:
        arrays = read_arrays(declared, path)
    feeds, count, batch_size = stacked_runs(declared, arrays, max_samples, path, shuffled=shuffled)
    source = f"{count} samples of {path.name}"
    return Inputs(tuple(feeds), count, batch_size, source, unreadable)


def stacked_runs(
    declared: Sequence[ir.Value],
    arrays: Feed,
    max_samples: int,
    where: object,
    *,
    shuffled: bool = False,
) -> tuple[list[Feed], int, int]:
    """Cut stacked arrays into runs of the batch size that the model fixes, or of `BATCH` samples.

    Args:
        declared: the model's inputs.
        arrays: one array for each input, and others.
        max_samples: largest number of samples.
        where: what an error message calls the arrays.
        shuffled: mix the samples, always in the same way.

    Returns:
        The runs, the number of samples, and the samples per run.

    Raises:
        QqonnxError: the arrays have different numbers of samples, or too few for a run.
    """
    batch = _fixed_batch(declared)
    feeds, count = stacked_feeds(
        declared,
        arrays,
        batch or BATCH,
        max_samples,
        where,
        whole_batches=batch is not None,
        shuffled=shuffled,
    )
    return feeds, count, batch or BATCH


def _runs(feeds: list[Feed], name: str) -> Inputs:
    return Inputs(tuple(feeds), len(feeds), 1, f"{len(feeds)} runs of {name}")


def _fixed_batch(declared: Sequence[ir.Value]) -> int | None:
    sizes = {value.shape[0] for value in declared if value.shape}
    fixed = {size for size in sizes if isinstance(size, int) and size > 0}
    return fixed.pop() if len(fixed) == 1 else None

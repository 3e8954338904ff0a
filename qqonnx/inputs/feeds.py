"""Inputs of runs: arrays that fit the model's inputs, stacked or one run at a time."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.errors import QqonnxError, first_line
from qqonnx.functions import named_object
from qqonnx.inputs.dataset import evenly_spaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Feed = dict[str, NDArray[Any]]


def numpy_type(value: ir.Value) -> np.dtype[Any]:
    """Return the numpy dtype of an input.

    Raises:
        QqonnxError: numpy has none.
    """
    if value.dtype is None or value.dtype in (ir.DataType.BFLOAT16, ir.DataType.STRING):
        raise QqonnxError(f"the input {value.name!r} has no numpy type")
    return value.dtype.numpy()


def as_feed(declared: Sequence[ir.Value], arrays: Mapping[str, Any], where: object) -> Feed:
    """Return the arrays that a model takes, in its types, and what else there is as it is.

    Args:
        declared: the model's inputs.
        arrays: arrays by name of the input, and others, such as labels.
        where: what an error message calls the arrays.

    Raises:
        QqonnxError: an input is missing, has another rank, or has values that are not finite.
    """
    feed: Feed = dict(arrays)
    for value in declared:
        name = value.name or ""
        if name not in arrays:
            names = ", ".join(map(repr, arrays)) or "none"
            raise QqonnxError(f"{where}: has no array for the input {name!r}; its arrays: {names}")
        array = np.asarray(arrays[name])
        rank = len(value.shape) if value.shape is not None else array.ndim
        if array.ndim != rank:
            raise QqonnxError(
                f"{where}: {name!r} has {array.ndim} dimensions, the input has {rank}"
            )
        if array.dtype.kind not in "fiub":
            raise QqonnxError(f"{where}: {name!r} is an array of {array.dtype}, not of numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise QqonnxError(f"{where}: {name!r} has values that are not finite")
        feed[name] = array.astype(numpy_type(value), copy=False)
    return feed


def stacked_feeds(
    declared: Sequence[ir.Value],
    arrays: Feed,
    batch_size: int,
    max_samples: int,
    where: object,
    *,
    whole_batches: bool,
    shuffled: bool = False,
) -> tuple[list[Feed], int]:
    """Cut stacked arrays into runs.

    Arrays without a sample axis go into every run as a whole: those of no dimensions, and those
    whose first axis has the fixed size of the input while other arrays are longer.

    Args:
        declared: the model's inputs.
        arrays: one array for each input, and others.
        batch_size: samples per run.
        max_samples: largest number of samples.
        where: what an error message calls the arrays.
        whole_batches: drop the last samples if they do not fill a run.
        shuffled: mix the samples, always in the same way.

    Returns:
        The runs, and the number of samples.

    Raises:
        QqonnxError: the arrays have different numbers of samples, or too few for a run.
    """
    fixed = {v.name: v.shape[0] for v in declared if v.shape is not None and len(v.shape)}
    inputs = {value.name or "": arrays[value.name or ""] for value in declared}
    lengths = {name: len(array) for name, array in inputs.items() if array.ndim}
    counts = {length for name, length in lengths.items() if length != fixed.get(name)}
    if len(counts) > 1:
        raise QqonnxError(f"{where}: its arrays have different numbers of samples")
    if not counts and (len(set(lengths.values())) != 1 or len(lengths) < len(inputs)):
        # No array has a sample axis.
        return [arrays], 1
    total = counts.pop() if counts else next(iter(lengths.values()))
    count = min(total, max_samples)
    if whole_batches:
        count = count // batch_size * batch_size
    if not count:
        raise QqonnxError(f"{where}: has too few samples for a batch of {batch_size}")
    sampled = {name for name, array in arrays.items() if array.ndim and len(array) == total}
    order = np.random.default_rng(0).permutation(total) if shuffled else np.arange(total)
    feeds = [
        {
            name: array[order[start : min(start + batch_size, count)]] if name in sampled else array
            for name, array in arrays.items()
        }
        for start in range(0, count, batch_size)
    ]
    return feeds, count


def read_arrays(declared: Sequence[ir.Value], data: Path) -> Feed:
    """Read the arrays of an .npy or .npz file.

    Raises:
        QqonnxError: the file cannot be read, or does not fit the inputs.
    """
    try:
        content = np.load(data, allow_pickle=False)
        arrays = dict(content) if data.suffix == ".npz" else {declared[0].name or "": content}
    except FileNotFoundError as error:
        raise QqonnxError(f"{data}: no such folder or file") from error
    except Exception as error:
        raise QqonnxError(f"{data}: not a folder, and not an .npy or .npz file") from error
    return as_feed(declared, arrays, data)


def feed_folder(
    declared: Sequence[ir.Value], files: Sequence[Path], max_samples: int
) -> list[Feed]:
    """Return the runs of a folder of .npz files, one run per file, evenly spaced if too many."""
    indices = evenly_spaced(len(files), min(len(files), max_samples))
    return [read_arrays(declared, files[index]) for index in indices]


def given_feeds(
    declared: Sequence[ir.Value], feeds: Iterable[Mapping[str, Any]], max_samples: int, where: str
) -> list[Feed]:
    """Return at most `max_samples` runs that a caller gives.

    Raises:
        QqonnxError: there are none, or they do not fit the model's inputs.
    """
    found = []
    try:
        for number, arrays in enumerate(islice(feeds, max_samples)):
            found.append(as_feed(declared, arrays, f"{where}, feed {number}"))
    except QqonnxError:
        raise
    except Exception as error:  # whatever a caller's code raises
        raise QqonnxError(f"{where}: {type(error).__name__}: {first_line(error)}") from error
    if not found:
        raise QqonnxError(f"{where}: gives no feeds")
    return found


def feeds_of_function(name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the feeds of a function that is named as module:function.

    Raises:
        QqonnxError: there is no such function, or it raises an error.
    """
    function = named_object(name)
    try:
        yield from function()
    except Exception as error:  # whatever the function raises
        raise QqonnxError(f"{name}: {type(error).__name__}: {first_line(error)}") from error

"""Calibration inputs: images, arrays, feeds of any shape, or synthetic inputs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.feeds import (
    feed_folder,
    feeds_of_callable,
    given_feeds,
    is_callable_name,
    numpy_type,
    read_arrays,
    stacked_feeds,
)
from qqonnx.calibration.images import BATCH, holds_images, read_images, synthetic_images
from qqonnx.calibration.session import extended_session
from qqonnx.errors import QqonnxError
from qqonnx.model.scopes import tensor_of
from qqonnx.model.session import run_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.feeds import Feed
    from qqonnx.config import CalibrationData

SYNTHETIC_WEIGHT = 1 / 30
"""Number of real samples that a synthetic one is worth: the best of 1/3, 1/10, 1/30 and 1/100 on
EfficientNet-Lite0."""

MAX_SYNTHETIC_SAMPLES = 128

SYMBOLIC_SIZES = (32, 8, 64, 512, 4096)
"""Sizes of the symbolic dimensions of synthetic inputs, in the order in which they are tried."""


@dataclass(frozen=True)
class CalibrationInputs:
    """Inputs of the runs of a calibration.

    Attributes:
        feeds: arrays by input name, for each run.
        count: number of samples.
        batch_size: samples per run; the last run can have fewer.
        source: description of the inputs for the user.
        unreadable: image files that could not be read.
        sample_weight: number of real samples that a sample is worth: 1, or less if synthetic.
    """

    feeds: tuple[Feed, ...]
    count: int
    batch_size: int
    source: str
    unreadable: tuple[str, ...] = ()
    sample_weight: float = 1.0

    def batches(self) -> Iterator[Feed]:
        """Yield the inputs of each run."""
        yield from self.feeds


def feed_samples(feed: Feed) -> int:
    """Return the number of samples of a run: the size of the largest first axis."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)


def calibration_inputs(
    model: ir.Model, data: CalibrationData, max_samples: int
) -> CalibrationInputs:
    """Return samples for the calibration of a model.

    Args:
        model: the model.
        data: a folder of images, searched recursively; an .npy or .npz file with stacked inputs; an
            .npz file with `images` uint8 [n, height, width(, 3)], to which the model's
            preprocessing is applied; a folder of .npz files with the inputs of one run each, or a
            function that yields such inputs, named "module:function", or the inputs themselves;
            or None for synthetic inputs.
        max_samples: largest number of samples, or of runs.

    Raises:
        QqonnxError: the data cannot be read, or do not fit the model's inputs.
    """
    declared = [value for value in model.graph.inputs if value.const_value is None]
    if not declared:
        raise QqonnxError("calibration: the model has no inputs")
    if data is None:
        return _synthetic(model, declared, min(max_samples, MAX_SYNTHETIC_SAMPLES))
    if isinstance(data, str) and is_callable_name(data):
        return _runs(given_feeds(declared, feeds_of_callable(data), max_samples, data), data)
    if not isinstance(data, (str, os.PathLike)):
        return _runs(given_feeds(declared, data, max_samples, "calibration data"), "given inputs")
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
    feeds, count, batch_size = _stacked(declared, arrays, max_samples, path)
    source = f"{count} samples of {path.name}"
    return CalibrationInputs(tuple(feeds), count, batch_size, source, unreadable)


def _runs(feeds: list[Feed], name: str) -> CalibrationInputs:
    return CalibrationInputs(tuple(feeds), len(feeds), 1, f"{len(feeds)} runs of {name}")


def _stacked(
    declared: Sequence[ir.Value], arrays: Feed, max_samples: int, where: object
) -> tuple[list[Feed], int, int]:
    batch = _fixed_batch(declared)
    feeds, count = stacked_feeds(
        declared, arrays, batch or BATCH, max_samples, where, whole_batches=batch is not None
    )
    return feeds, count, batch or BATCH


def _fixed_batch(declared: Sequence[ir.Value]) -> int | None:
    sizes = {value.shape[0] for value in declared if value.shape}
    fixed = {size for size in sizes if isinstance(size, int) and size > 0}
    return fixed.pop() if len(fixed) == 1 else None


def _synthetic(model: ir.Model, declared: Sequence[ir.Value], count: int) -> CalibrationInputs:
    images = synthetic_images(model, declared, count)
    if images is not None:
        stacked = _stacked(declared, {declared[0].name or "": images}, count, "synthetic inputs")
    else:
        stacked = _synthetic_noise(model, declared, count)
    feeds, count, batch_size = stacked
    return CalibrationInputs(
        tuple(feeds),
        count,
        batch_size,
        "synthetic inputs (data-free)",
        sample_weight=SYNTHETIC_WEIGHT,
    )


def _synthetic_noise(
    model: ir.Model, declared: Sequence[ir.Value], count: int
) -> tuple[list[Feed], int, int]:
    """Return noise of a size that the model accepts, as far as the model leaves the size open."""

    def stacked(size: int) -> tuple[list[Feed], int, int]:
        random = np.random.default_rng(0)
        arrays = {value.name or "": _noise(value, count, size, random) for value in declared}
        return _stacked(declared, arrays, count, "synthetic inputs")

    first = stacked(SYMBOLIC_SIZES[0])
    dims = [dim for value in declared for dim in list(value.shape or ())[1:]]
    if all(isinstance(dim, int) for dim in dims):
        return first
    with extended_session(model) as session:
        for size in SYMBOLIC_SIZES:
            candidate = stacked(size)
            try:
                run_session(session, candidate[0][0])
            except QqonnxError:
                continue
            return candidate
    # The error of the first size tells more than "no size runs".
    return first


def _noise(value: ir.Value, count: int, size: int, random: np.random.Generator) -> NDArray[Any]:
    """Return synthetic values of an input: [count, ...], or [] for an input of no dimensions.

    Masks are ones and lengths are whole. Other integers are indices into the tables that they look
    up.
    """
    dims = list(value.shape or ())
    shape = [count, *(dim if isinstance(dim, int) else size for dim in dims[1:])]
    if value.shape is not None and not dims:
        shape = []
    dtype, name = numpy_type(value), (value.name or "").lower()
    if dtype.kind == "b" or "mask" in name:
        return np.ones(shape, dtype)
    if dtype.kind == "f":
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    if "length" in name or name.endswith(("_len", "_lens")):
        return np.full(shape, size, dtype)
    return np.asarray(random.integers(0, _rows_gathered(value), shape)).astype(dtype)


def _rows_gathered(value: ir.Value) -> int:
    """Return the number of rows of the smallest table that `value` indexes; 2 without a table."""
    rows = [
        tensor_of(table).shape.numpy()[node.attributes.get_int("axis", 0)]
        for node, index in value.uses()
        if node.op_type == "Gather" and index == 1
        for table in (node.inputs[0],)
        if table is not None and table.const_value is not None
    ]
    return min(rows, default=2)

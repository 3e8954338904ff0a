"""Calibration inputs: a folder of images, arrays, or synthetic inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.calibration.synthetic import dead_leaves
from qqonnx.errors import QqonnxError
from qqonnx.evaluation.data import SUFFIXES, Dataset, batches, open_dataset
from qqonnx.evaluation.preprocessing import Preprocessing, for_model
from qqonnx.model.scopes import tensor_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

BATCH = 8
SYNTHETIC_WEIGHT = 1 / 30
"""Number of real samples that a synthetic one is worth: the best of 1/3, 1/10, 1/30 and 1/100 on
EfficientNet-Lite0."""

MAX_SYNTHETIC_SAMPLES = 128

SYMBOLIC_SIZE = 32
"""Size of the symbolic dimensions of synthetic inputs."""


@dataclass(frozen=True)
class CalibrationInputs:
    """Samples of a model's inputs.

    Attributes:
        arrays: arrays [samples, ...] by input name.
        batch_size: samples per run; the model's batch size if that is fixed.
        source: description of the inputs for the user.
        unreadable: image files that could not be read.
        sample_weight: number of real samples that a sample is worth: 1, or less if synthetic.
    """

    arrays: Mapping[str, NDArray[Any]]
    batch_size: int
    source: str
    unreadable: tuple[str, ...] = ()
    sample_weight: float = 1.0

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    def batches(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield batches of `batch_size` samples; the last one can be smaller."""
        for start in range(0, self.count, self.batch_size):
            part = slice(start, start + self.batch_size)
            yield {name: array[part] for name, array in self.arrays.items()}


def calibration_inputs(
    model: ir.Model, data: str | os.PathLike[str] | None, max_samples: int
) -> CalibrationInputs:
    """Return samples for the calibration of a model.

    Args:
        model: the model.
        data: a folder of images, searched recursively; an .npy or .npz file with inputs; an .npz
            file with `images` uint8 [n, height, width(, 3)], to which the model's preprocessing is
            applied; or None for synthetic inputs.
        max_samples: largest number of samples.

    Raises:
        QqonnxError: the data cannot be read, or do not fit the model's inputs.
    """
    declared = [value for value in model.graph.inputs if value.const_value is None]
    if not declared:
        raise QqonnxError("calibration: the model has no inputs")
    batch = _fixed_batch(declared)
    if data is None:
        count = min(max_samples, MAX_SYNTHETIC_SAMPLES)
        arrays = _whole_batches(_synthetic_inputs(model, declared, count), batch)
        source = "synthetic inputs (data-free)"
        return CalibrationInputs(arrays, batch or BATCH, source, sample_weight=SYNTHETIC_WEIGHT)
    data = Path(data)
    if data.is_dir() or _holds_images(data):
        arrays, unreadable = _images(model, declared, data, max_samples)
    else:
        arrays, unreadable = _arrays(declared, data, max_samples), ()
    arrays = _whole_batches(arrays, batch)
    count = len(next(iter(arrays.values())))
    if not count:
        raise QqonnxError(f"{data}: has too few samples for a batch of {batch}")
    source = f"{count} samples of {data.name}"
    return CalibrationInputs(arrays, batch or BATCH, source, unreadable)


def _fixed_batch(declared: Sequence[ir.Value]) -> int | None:
    sizes = {value.shape[0] for value in declared if value.shape}
    fixed = {size for size in sizes if isinstance(size, int) and size > 0}
    return fixed.pop() if len(fixed) == 1 else None


def _whole_batches(arrays: dict[str, NDArray[Any]], batch: int | None) -> dict[str, NDArray[Any]]:
    """Drop the last samples if they do not fill a batch of fixed size."""
    if batch is None:
        return arrays
    return {name: array[: len(array) // batch * batch] for name, array in arrays.items()}


def _numpy_type(value: ir.Value) -> np.dtype[Any]:
    if value.dtype is None or value.dtype == ir.DataType.BFLOAT16:
        raise QqonnxError(f"calibration: numpy has no type for the input {value.name!r}")
    return value.dtype.numpy()


def _image_shape(declared: Sequence[ir.Value]) -> tuple[bool, int | None] | None:
    """Return (whether channels are last, image side if fixed); None if the input is no images."""
    if len(declared) != 1 or declared[0].shape is None or len(declared[0].shape) != 4:
        return None
    shape = declared[0].shape.numpy() if declared[0].shape.is_static() else declared[0].shape
    first, last = shape[1], shape[3]
    if first not in (1, 3) and last not in (1, 3):
        return None
    channels_last = first not in (1, 3)
    side = shape[1] if channels_last else shape[2]
    return channels_last, side if isinstance(side, int) else None


def _holds_images(data: Path) -> bool:
    if data.suffix != ".npz" or not data.is_file():
        return False
    try:
        with np.load(data, allow_pickle=False) as arrays:
            return "images" in arrays and arrays["images"].dtype == np.uint8
    except Exception:
        return False


def _images(
    model: ir.Model, declared: Sequence[ir.Value], data: Path, max_samples: int
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    shape = _image_shape(declared)
    if shape is None:
        raise QqonnxError(f"{data}: has images, but the model's input is not a batch of images")
    channels_last, side = shape
    preprocessing, _ = for_model(model.metadata_props, side)
    dataset = open_dataset(data, max_samples) if data.is_file() else _folder(data, max_samples)
    images: list[NDArray[np.float32]] = []
    unreadable: list[str] = []
    for batch in batches(dataset, preprocessing, BATCH):
        images.append(batch.images)
        unreadable.extend(batch.unreadable)
    stacked = np.concatenate(images)
    if not len(stacked):
        raise QqonnxError(f"{data}: none of its {len(dataset.items)} images can be read")
    arrays = {declared[0].name or "": _as_input(stacked, declared[0], channels_last)}
    return arrays, tuple(unreadable)


def _folder(data: Path, max_samples: int) -> Dataset:
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise QqonnxError(f"{data}: holds no images")
    if max_samples < len(files):
        positions = np.linspace(0, len(files) - 1, max_samples).round().astype(int)
        files = [files[position] for position in positions]
    return Dataset(data, tuple(files), np.zeros(len(files), np.int64), ())


def _as_input(images: NDArray[np.float32], value: ir.Value, channels_last: bool) -> NDArray[Any]:
    arranged = images.transpose(0, 2, 3, 1) if channels_last else images
    return np.ascontiguousarray(arranged, _numpy_type(value))


def _arrays(declared: Sequence[ir.Value], data: Path, max_samples: int) -> dict[str, NDArray[Any]]:
    try:
        content = np.load(data, allow_pickle=False)
        loaded = dict(content) if data.suffix == ".npz" else {declared[0].name or "": content}
    except FileNotFoundError as error:
        raise QqonnxError(f"{data}: no such folder or file") from error
    except Exception as error:
        raise QqonnxError(f"{data}: not a folder, and not an .npy or .npz file") from error
    arrays: dict[str, NDArray[Any]] = {}
    for value in declared:
        name = value.name or ""
        if name not in loaded:
            names = ", ".join(map(repr, loaded)) or "none"
            raise QqonnxError(f"{data}: has no array for the input {name!r}; its arrays: {names}")
        array = loaded[name]
        rank = len(value.shape) if value.shape is not None else array.ndim
        if array.ndim != rank or not len(array):
            raise QqonnxError(f"{data}: {name!r} has {array.ndim} dimensions, the input has {rank}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise QqonnxError(f"{data}: {name!r} has values that are not finite")
        arrays[name] = array[:max_samples].astype(_numpy_type(value), copy=False)
    if len({len(array) for array in arrays.values()}) != 1:
        raise QqonnxError(f"{data}: its arrays have different numbers of samples")
    return arrays


def _synthetic_inputs(
    model: ir.Model, declared: Sequence[ir.Value], count: int
) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    image = _image_shape(declared)
    if image is not None and _numpy_type(declared[0]).kind == "f":
        channels_last, side = image
        preprocessing, _ = for_model(model.metadata_props, side)
        images = _synthetic_images(preprocessing, count, random)
        shape = declared[0].shape
        assert shape is not None
        channels = shape[3] if channels_last else shape[1]
        if channels == images.shape[1]:
            return {declared[0].name or "": _as_input(images, declared[0], channels_last)}
    return {value.name or "": _noise(value, count, random) for value in declared}


def _synthetic_images(
    preprocessing: Preprocessing, count: int, random: np.random.Generator
) -> NDArray[np.float32]:
    mean, std = (
        np.array(entry, np.float32)[:, None, None]
        for entry in (preprocessing.mean, preprocessing.std)
    )
    side = preprocessing.crop
    images = [(dead_leaves(side, side, len(mean), random) - mean) / std for _ in range(count)]
    return np.stack(images)


def _noise(value: ir.Value, count: int, random: np.random.Generator) -> NDArray[Any]:
    dims = list(value.shape or ())[1:]
    shape = [count, *(size if isinstance(size, int) else SYMBOLIC_SIZE for size in dims)]
    dtype = _numpy_type(value)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    return random.integers(0, _rows_gathered(value), shape).astype(dtype)


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

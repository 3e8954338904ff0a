"""Images of a folder or an .npz file as the input of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.errors import QqonnxError
from qqonnx.inputs.dataset import SUFFIXES, Dataset, batches, evenly_spaced, open_dataset
from qqonnx.inputs.feeds import numpy_type
from qqonnx.inputs.preprocessing import for_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

BATCH = 8


def holds_images(data: Path) -> bool:
    """Return whether a file is an .npz file with `images` uint8."""
    if data.suffix != ".npz" or not data.is_file():
        return False
    try:
        with np.load(data, allow_pickle=False) as arrays:
            return "images" in arrays and arrays["images"].dtype == np.uint8
    except Exception:
        return False


def read_images(
    model: ir.Model, declared: Sequence[ir.Value], data: Path, max_samples: int
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return preprocessed images as the model's input, and the files that cannot be read.

    Raises:
        QqonnxError: the model's input is not a batch of images, or there are no images.
    """
    shape = image_shape(declared)
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
    return as_input(stacked, declared[0], channels_last), tuple(unreadable)


def image_shape(declared: Sequence[ir.Value]) -> tuple[bool, int | None] | None:
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


def _folder(data: Path, max_samples: int) -> Dataset:
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise QqonnxError(f"{data}: holds neither images nor .npz files")
    if max_samples < len(files):
        files = [files[index] for index in evenly_spaced(len(files), max_samples)]
    return Dataset(data, tuple(files), np.zeros(len(files), np.int64), ())


def as_input(images: NDArray[np.float32], value: ir.Value, channels_last: bool) -> NDArray[Any]:
    """Return images float32 [n, channels, height, width] in the layout and type of an input."""
    arranged = images.transpose(0, 2, 3, 1) if channels_last else images
    return np.ascontiguousarray(arranged, numpy_type(value))

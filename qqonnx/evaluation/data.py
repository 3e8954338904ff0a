"""Labelled images: a folder of class folders, or an .npz file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.preprocessing import Preprocessing, apply
from qqonnx.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Dataset:
    """Labelled images, read when they are needed.

    Attributes:
        path: where they come from.
        items: an image file's path, or an uint8 array [height, width] or [height, width, 3].
        labels: index of each image's class, int64 [n].
        classes: the class folders' names in order; empty for an .npz file.
    """

    path: Path
    items: tuple[Any, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """Images ready for a model.

    Attributes:
        images: float32 [n, channels, height, width].
        labels: int64 [n], indices of classes.
        unreadable: image files left out because they could not be decoded.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    unreadable: tuple[str, ...]


def open_dataset(path: Path, limit: int | None = None) -> Dataset:
    """List the images of a folder with one folder a class, or open an .npz file.

    Args:
        path: the folder, or a file with `images` uint8 [n, height, width(, 3)] and `labels`
            int64 [n].
        limit: take this many images, evenly spread.

    Raises:
        QqonnxError: nothing there, no image, or arrays that do not fit.
    """
    if path.is_file():
        dataset = _from_npz(path)
    elif path.is_dir():
        dataset = _from_folder(path)
    else:
        raise QqonnxError(f"{path}: no such folder of images or .npz file")
    if not dataset.items:
        raise QqonnxError(f"{path}: holds no images in class folders")
    if limit is not None and limit < 1:
        raise QqonnxError(f"--limit is at least 1, not {limit}")
    if limit is None or limit >= len(dataset.items):
        return dataset
    chosen = np.linspace(0, len(dataset.items) - 1, limit).round().astype(int)
    items = tuple(dataset.items[index] for index in chosen)
    return Dataset(path, items, dataset.labels[chosen], dataset.classes)


def batches(dataset: Dataset, preprocessing: Preprocessing, size: int) -> Iterator[Batch]:
    """Yield the images in order, at most `size` at a time; unreadable ones are left out."""
    import_extra("PIL.Image", "images")
    from PIL import Image

    for start in range(0, len(dataset.items), size):
        images, labels, unreadable = [], [], []
        for item, label in zip(
            dataset.items[start : start + size], dataset.labels[start : start + size], strict=True
        ):
            try:
                # A named pipe would keep the reader waiting.
                if not isinstance(item, np.ndarray) and not item.is_file():
                    raise OSError("no regular file")
                opened = isinstance(item, np.ndarray) and Image.fromarray(item)
                with opened or Image.open(item) as image:
                    images.append(apply(image, preprocessing))
                labels.append(label)
            # Pillow's decoders raise all kinds of errors on damaged files.
            except Exception:  # noqa: PERF203
                unreadable.append(str(item))
        shape = (0, len(preprocessing.mean), preprocessing.crop, preprocessing.crop)
        stacked = np.stack(images) if images else np.empty(shape, np.float32)
        yield Batch(stacked, np.array(labels, np.int64), tuple(unreadable))


def output_indices(dataset: Dataset, outputs: int) -> NDArray[np.int64]:
    """Return which of a model's outputs stands for each class of the data set: int64 [classes].

    Folders named by WordNet ids go with ImageNet's 1,000 outputs (or 1,001, the first of which
    is the background); others are the outputs in sorted order.

    Raises:
        QqonnxError: the numbers of classes and outputs do not fit.
    """
    classes = dataset.classes
    if not classes:
        highest = int(dataset.labels.max())
        if highest >= outputs or int(dataset.labels.min()) < 0:
            raise QqonnxError(
                f"{dataset.path}: label {highest}, but the model has {outputs} outputs"
            )
        return np.arange(outputs)
    if outputs in (1000, 1001) and all(re.fullmatch(r"n\d{8}", name) for name in classes):
        text = files("qqonnx.evaluation").joinpath("imagenet_wnids.txt").read_text("ascii")
        order = {name: index for index, name in enumerate(text.split())}
        unknown = [name for name in classes if name not in order]
        if unknown:
            raise QqonnxError(f"{dataset.path}: {unknown[0]} is none of ImageNet's 1,000 classes")
        return np.array([order[name] + outputs - 1000 for name in classes])
    if len(classes) != outputs:
        raise QqonnxError(
            f"{dataset.path}: {len(classes)} class folders, but the model has {outputs} outputs"
        )
    return np.arange(outputs)


def _from_folder(path: Path) -> Dataset:
    classes = tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
    found = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    labels = np.array([label for _, label in found], np.int64)
    return Dataset(path, tuple(file for file, _ in found), labels, classes)


def _from_npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except Exception as error:
        raise QqonnxError(f"{path}: no .npz file with `images` and `labels`") from error
    fits = images.dtype == np.uint8 and (images.ndim == 3 or images.shape[3:] in ((1,), (3,)))
    if not fits or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise QqonnxError(f"{path}: images are uint8 [n, h, w] or [n, h, w, 3], labels int64 [n]")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    return Dataset(path, tuple(images), labels.astype(np.int64), ())

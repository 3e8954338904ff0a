"""Data sets of images: a folder or an .npz file, with or without labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.errors import OptionError, QqonnxError
from qqonnx.extras import import_extra
from qqonnx.inputs.preprocessing import Preprocessing, apply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Dataset:
    """Images that are read on demand.

    Attributes:
        path: the folder or .npz file.
        items: one entry per image: the path of an image file, or a uint8 array [height, width]
            or [height, width, 3].
        labels: index of each image's class, int64 [n]; None if the images have no labels.
        classes: names of the class folders in order; empty for an .npz file.
    """

    path: Path
    items: tuple[Any, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] = ()

    def subset(self, indices: Sequence[int]) -> Dataset:
        """Return the data set with only the images at these indices."""
        items = tuple(self.items[index] for index in indices)
        labels = None if self.labels is None else self.labels[np.array(indices, int)]
        return replace(self, items=items, labels=labels)


@dataclass(frozen=True)
class Batch:
    """Preprocessed images.

    Attributes:
        images: float32 [n, channels, height, width].
        labels: index of each image's class, int64 [n]; None without labels.
        unreadable: names of image files that could not be decoded and are left out.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    unreadable: tuple[str, ...] = ()


def open_dataset(path: Path, limit: int | None = None, *, labels_required: bool = True) -> Dataset:
    """List the images of a folder, or open an .npz file.

    Args:
        path: a folder with one folder of images per class; or an .npz file with `images` uint8
            [n, height, width] or [n, height, width, 3], and `labels` int64 [n].
        limit: largest number of images, evenly spaced; None for all.
        labels_required: refuse images without labels, which are a folder without class folders
            or an .npz file without `labels`.

    Raises:
        QqonnxError: the path does not exist, holds no images, or its arrays do not fit.
        OptionError: `limit` is less than 1.
    """
    if limit is not None and limit < 1:
        raise OptionError("limit", f"at least 1, not {limit}")
    if path.is_file():
        dataset = _from_npz(path, labels_required)
    elif path.is_dir():
        dataset = _from_folder(path, labels_required)
    else:
        raise QqonnxError(f"{path}: no such folder of images or .npz file")
    if not dataset.items:
        where = "" if dataset.labels is None else " in class folders"
        raise QqonnxError(f"{path}: holds no images{where}")
    if limit is None or limit >= len(dataset.items):
        return dataset
    return dataset.subset(evenly_spaced(len(dataset.items), limit))


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return `wanted` of the indices from 0 to `count` - 1, evenly spaced.

    Images sorted by class stay balanced that way.
    """
    indices: list[int] = np.linspace(0, count - 1, wanted).round().astype(int).tolist()
    return indices


def batches(dataset: Dataset, preprocessing: Preprocessing, size: int) -> Iterator[Batch]:
    """Yield the images in order, at most `size` at a time, without the unreadable ones."""
    import_extra("PIL.Image", "images")
    from PIL import Image

    for start in range(0, len(dataset.items), size):
        images, readable, unreadable = [], [], []
        for index in range(start, min(start + size, len(dataset.items))):
            item = dataset.items[index]
            try:
                # Opening a named pipe would block.
                if not isinstance(item, np.ndarray) and not item.is_file():
                    raise OSError("no regular file")
                opened = isinstance(item, np.ndarray) and Image.fromarray(item)
                with opened or Image.open(item) as image:
                    images.append(apply(image, preprocessing))
                readable.append(index)
            # Pillow raises many kinds of errors for damaged files.
            except Exception:
                unreadable.append(str(item))
        shape = (0, len(preprocessing.mean), preprocessing.crop, preprocessing.crop)
        stacked = np.stack(images) if images else np.empty(shape, np.float32)
        yield Batch(stacked, dataset.subset(readable).labels, tuple(unreadable))


def output_indices(dataset: Dataset, outputs: int) -> NDArray[np.int64]:
    """Return the index of the model output that belongs to each class: int64 [classes].

    If all class folders have WordNet ids as names and the model has ImageNet's 1,000 outputs (or
    1,001, with the background first), the ids decide. Otherwise the classes are the outputs in
    sorted order.

    Raises:
        QqonnxError: the numbers of classes and outputs do not fit.
    """
    classes = dataset.classes
    if not classes:
        assert dataset.labels is not None
        highest = int(dataset.labels.max())
        if highest >= outputs or int(dataset.labels.min()) < 0:
            raise QqonnxError(
                f"{dataset.path}: label {highest}, but the model has {outputs} outputs"
            )
        return np.arange(outputs)
    if outputs in (1000, 1001) and all(re.fullmatch(r"n\d{8}", name) for name in classes):
        text = files("qqonnx.inputs").joinpath("imagenet_wnids.txt").read_text("ascii")
        order = {name: index for index, name in enumerate(text.split())}
        unknown = [name for name in classes if name not in order]
        if unknown:
            raise QqonnxError(
                f"{dataset.path}: {unknown[0]} is not one of ImageNet's 1,000 classes"
            )
        return np.array([order[name] + outputs - 1000 for name in classes])
    if len(classes) != outputs:
        raise QqonnxError(
            f"{dataset.path}: {len(classes)} class folders, but the model has {outputs} outputs"
        )
    return np.arange(outputs)


def _from_folder(path: Path, labels_required: bool) -> Dataset:
    classes = tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
    if not classes and not labels_required:
        images = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        return Dataset(path, tuple(images), None)
    labeled = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    labels = np.array([label for _, label in labeled], np.int64)
    return Dataset(path, tuple(file for file, _ in labeled), labels, classes)


def _from_npz(path: Path, labels_required: bool) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
            labels = arrays["labels"] if labels_required or "labels" in arrays else None
    except Exception as error:
        raise QqonnxError(f"{path}: not an .npz file with `images` and `labels`") from error
    fits = images.dtype == np.uint8 and (images.ndim == 3 or images.shape[3:] in ((1,), (3,)))
    if labels is not None:
        fits &= labels.shape == images.shape[:1] and labels.dtype.kind in "iu"
        labels = labels.astype(np.int64)
    if not fits:
        raise QqonnxError(f"{path}: images are uint8 [n, h, w] or [n, h, w, 3], labels int64 [n]")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    return Dataset(path, tuple(images), labels)

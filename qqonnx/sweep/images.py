"""Which images of a data set judge, and which are kept apart for calibration."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.data import SUFFIXES, Dataset, open_dataset
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def open_images(path: Path) -> tuple[Dataset, bool]:
    """Open a data set, and tell whether it has labels.

    A folder of images without class folders has none, and an .npz file with `images` alone.

    Raises:
        QqonnxError: there is no image.
    """
    if path.is_dir() and not any(entry.is_dir() for entry in path.iterdir()):
        files = tuple(sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES))
        if not files:
            raise QqonnxError(f"{path}: holds no images")
        return Dataset(path, files, np.zeros(len(files), np.int64), ()), False
    if path.is_file() and _has_no_labels(path):
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
        if images.dtype != np.uint8 or (images.ndim != 3 and images.shape[3:] != (3,)):
            raise QqonnxError(f"{path}: images are uint8 [n, h, w] or [n, h, w, 3]")
        return Dataset(path, tuple(images), np.zeros(len(images), np.int64), ()), False
    return open_dataset(path), True


def judging(dataset: Dataset, apart: int, samples: int | None) -> Dataset:
    """Return the images to judge by.

    Args:
        dataset: all images.
        apart: how many are kept for calibration.
        samples: take at most this many, evenly spread.

    Raises:
        QqonnxError: none is left.
    """
    taken = set(_apart(dataset, apart))
    left = [index for index in range(len(dataset.items)) if index not in taken]
    if not left:
        raise QqonnxError(f"{dataset.path}: calibration leaves none of {len(taken)} images")
    if samples is not None and samples < len(left):
        left = [left[i] for i in _spread(len(left), samples)]
    return _subset(dataset, left)


@contextmanager
def calibration_images(dataset: Dataset, apart: int) -> Iterator[Path]:
    """Give a folder or file with the images that are kept apart, as calibration reads them."""
    chosen = _subset(dataset, _apart(dataset, apart))
    with temporary_folder() as folder:
        if isinstance(chosen.items[0], np.ndarray):
            file = folder / dataset.path.name
            np.savez(file, images=np.stack(chosen.items), labels=chosen.labels)
            yield file
        else:
            images = folder / dataset.path.name
            images.mkdir()
            for number, item in enumerate(chosen.items):
                _link(item, images / f"{number:06d}{item.suffix}")
            yield images


def _apart(dataset: Dataset, apart: int) -> list[int]:
    return _spread(len(dataset.items), min(apart, len(dataset.items)))


def _spread(count: int, wanted: int) -> list[int]:
    if not wanted:
        return []
    # With labels in order, as in a folder of classes, every class has its share.
    chosen: list[int] = np.linspace(0, count - 1, wanted).round().astype(int).tolist()
    return chosen


def _subset(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    items = tuple(dataset.items[index] for index in indices)
    return Dataset(dataset.path, items, dataset.labels[list(indices)], dataset.classes)


def _link(source: Path, target: Path) -> None:
    # Windows lets few users make links.
    if os.name == "posix":
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)


def _has_no_labels(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return "images" in arrays and "labels" not in arrays
    except Exception:  # open_dataset says what is wrong with it
        return False

"""Disjoint splits of a data set: images for calibration and images for evaluation."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.errors import QqonnxError
from qqonnx.inputs.dataset import Dataset, evenly_spaced
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def evaluation_split(dataset: Dataset, reserved: int, samples: int | None) -> Dataset:
    """Return the images for evaluation, which exclude the calibration split.

    Args:
        dataset: all images.
        reserved: number of images in the calibration split.
        samples: largest number of images, evenly spaced; None for all.

    Raises:
        QqonnxError: no image is left.
    """
    calibration = set(_reserved(dataset, reserved))
    rest = [index for index in range(len(dataset.items)) if index not in calibration]
    if not rest:
        raise QqonnxError(f"{dataset.path}: calibration leaves none of {len(calibration)} images")
    if samples is not None and samples < len(rest):
        rest = [rest[index] for index in evenly_spaced(len(rest), samples)]
    return dataset.subset(rest)


@contextmanager
def calibration_split(dataset: Dataset, reserved: int) -> Iterator[Path]:
    """Yield a temporary folder or .npz file with the `reserved` images for calibration."""
    split = dataset.subset(_reserved(dataset, reserved))
    with temporary_folder() as folder:
        if isinstance(split.items[0], np.ndarray):
            file = folder / dataset.path.name
            # Calibration requires labels in the file, but ignores them.
            labels = np.zeros(len(split.items), int) if split.labels is None else split.labels
            np.savez(file, images=np.stack(split.items), labels=labels)
            yield file
        else:
            images = folder / dataset.path.name
            images.mkdir()
            for number, item in enumerate(split.items):
                _link(item, images / f"{number:06d}{item.suffix}")
            yield images


def _reserved(dataset: Dataset, reserved: int) -> list[int]:
    count = len(dataset.items)
    return evenly_spaced(count, min(reserved, count))


def _link(source: Path, target: Path) -> None:
    # On Windows, symbolic links need a privilege.
    if os.name == "posix":
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)

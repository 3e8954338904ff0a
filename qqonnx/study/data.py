"""Labelled images for reference models, split into training and held-out images."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qqonnx.cache import cache_folder
from qqonnx.errors import QqonnxError
from qqonnx.extras import import_extra
from qqonnx.inputs.dataset import open_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SEED = 0
HELD_OUT_SHARE = 3
"""One image in three is held out if a data set has no split. Fewer held-out images would make
accuracies coarser and cause more ties in their ranks."""

_HELD_OUT_FOLDERS = ("test", "val")


class Split(NamedTuple):
    """Images uint8 [n, height, width] or [n, height, width, 3], and labels int64 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Images to train on and images held out.

    Attributes:
        name: the name in figures and on the page.
        training: images for training models and for calibration.
        held_out: images for measuring accuracy.
        classes: the number of classes.
    """

    name: str
    training: Split
    held_out: Split
    classes: int


def digits() -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits of 8 by 8 pixels, with a third held out.

    Raises:
        QqonnxError: scikit-learn is not installed.
    """
    bunch = import_extra("sklearn.datasets", "study").load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return ImageSet("scikit-learn digits", *_split(Split(images, labels)), classes=10)


def mnist(path: Path) -> ImageSet:
    """Return MNIST from its four published IDX files, which may be gzipped.

    Args:
        path: the folder of the files, or "download" to fetch them into the cache.

    Raises:
        QqonnxError: a file is missing or damaged, or the download fails.
    """
    if str(path) == "download":
        path = _download_mnist()
    parts = []
    for part in ("train", "t10k"):
        images = _read_idx(path, f"{part}-images", 3)
        labels = _read_idx(path, f"{part}-labels", 1).astype(np.int64)
        if len(images) != len(labels):
            raise QqonnxError(f"{path}: {part} has {len(images)} images, {len(labels)} labels")
        parts.append(Split(images, labels))
    return ImageSet("MNIST", parts[0], parts[1], classes=10)


def _download_mnist() -> Path:
    datasets = import_extra("torchvision.datasets", "study")
    home = cache_folder("study") / "mnist"
    try:
        datasets.MNIST(home, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise QqonnxError(f"MNIST cannot be downloaded: {reason}; give its folder") from error
    return home / "MNIST" / "raw"


def _read_idx(folder: Path, stem: str, rank: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: 0, 0, 8, rank, big-endian sizes, and values."""
    files = sorted(folder.glob(f"{stem}*ubyte")) + sorted(folder.glob(f"{stem}*ubyte.gz"))
    if not files:
        raise QqonnxError(f"{folder}: no file {stem}-idx{rank}-ubyte(.gz)")
    try:
        content = files[0].read_bytes()
        if files[0].suffix == ".gz":
            content = gzip.decompress(content)
        if content[:4] != bytes([0, 0, 8, rank]):
            raise ValueError("not the header of an IDX file")
        shape = np.frombuffer(content, ">u4", rank, 4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise QqonnxError(f"{files[0]}: cannot be read: {error}") from error


def image_folder(path: Path, size: int) -> ImageSet:
    """Return the images of a folder, each resized to `size` by `size` pixels.

    Args:
        path: a folder with one folder per class, or with folders `train` and `test` (or `val`)
            of that form. Without `train`, a fixed random third of each class is held out.
        size: the side in pixels.

    Raises:
        QqonnxError: there are no images, or the two parts have different classes.
    """
    if not (path / "train").is_dir():
        everything, classes = _read(path, size)
        return ImageSet(path.name, *_split(everything), classes=len(classes))
    held_out_folder = next((path / n for n in _HELD_OUT_FOLDERS if (path / n).is_dir()), None)
    if held_out_folder is None:
        raise QqonnxError(f"{path}: has a folder train, but neither test nor val")
    training, classes = _read(path / "train", size)
    held_out, other = _read(held_out_folder, size)
    if classes != other:
        raise QqonnxError(f"{path}: train and {held_out_folder.name} have different classes")
    return ImageSet(path.name, training, held_out, classes=len(classes))


def write_npz(path: Path, split: Split) -> None:
    """Write a split in the form that `qqonnx evaluate --data` reads."""
    np.savez_compressed(path, images=split.images, labels=split.labels)


def read_npz(path: Path) -> Split:
    """Read a file that `write_npz` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Split(arrays["images"], arrays["labels"])


def _split(everything: Split) -> tuple[Split, Split]:
    """Return training and held-out images, with the same share of each class."""
    held = np.zeros(len(everything.labels), np.bool_)
    rng = np.random.default_rng(SEED)
    for label in np.unique(everything.labels):
        members = rng.permutation(np.flatnonzero(everything.labels == label))
        held[members[: len(members) // HELD_OUT_SHARE]] = True
    training, held_out = (
        Split(everything.images[chosen], everything.labels[chosen]) for chosen in (~held, held)
    )
    return training, held_out


def _read(folder: Path, size: int) -> tuple[Split, tuple[str, ...]]:
    image_module = import_extra("PIL.Image", "images")
    dataset = open_dataset(folder)
    assert dataset.labels is not None
    images = np.empty((len(dataset.items), size, size, 3), np.uint8)
    for number, file in enumerate(dataset.items):
        try:
            image = image_module.open(file).convert("RGB")
            images[number] = np.asarray(image.resize((size, size)))
        # Pillow's decoders raise errors of many types on damaged files.
        except Exception as error:  # noqa: PERF203
            raise QqonnxError(f"{file}: cannot be read: {error}") from error
    return Split(images, dataset.labels), dataset.classes

"""The study's images: folders, splits, MNIST's files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from qqonnx.errors import QqonnxError
from qqonnx.study.data import Split, digits, image_folder, mnist, read_npz, write_npz

pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")


def fill(folder: Path, classes: str, images: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(images):
            pixels = rng.integers(0, 256, (12, 10, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")


def test_digits_hold_out_a_third_of_each_class() -> None:
    images = digits()
    assert len(images.training.labels) + len(images.held_out.labels) == 1797
    for label in range(10):
        held = (images.held_out.labels == label).sum()
        every = held + (images.training.labels == label).sum()
        assert held == every // 3
    held_out = {image.tobytes() for image in images.held_out.images}
    training = {image.tobytes() for image in images.training.images}
    assert len(held_out & training) <= 2  # the data set has a few images twice


def test_one_folder_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    fill(tmp_path, "ab", 9)
    first, second = (image_folder(tmp_path, 8) for _ in range(2))
    assert first.classes == 2
    assert first.held_out.images.shape == (6, 8, 8, 3)
    assert first.training.images.shape == (12, 8, 8, 3)
    np.testing.assert_array_equal(first.held_out.images, second.held_out.images)
    np.testing.assert_array_equal(np.bincount(first.held_out.labels), [3, 3])


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_kept(tmp_path: Path, held_out: str) -> None:
    fill(tmp_path / "train", "ab", 3)
    fill(tmp_path / held_out, "ab", 2, seed=1)
    images = image_folder(tmp_path, 8)
    assert len(images.training.labels) == 6
    assert len(images.held_out.labels) == 4


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", "ab", 1)
    with pytest.raises(QqonnxError, match="neither test nor val"):
        image_folder(tmp_path, 8)
    fill(tmp_path / "test", "ac", 1)
    with pytest.raises(QqonnxError, match="train and test have different classes"):
        image_folder(tmp_path, 8)
    (tmp_path / "other" / "a").mkdir(parents=True)
    (tmp_path / "other" / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises(QqonnxError, match=r"x.png: cannot be read"):
        image_folder(tmp_path / "other", 8)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    content = header + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_mnists_files_are_read_gzipped_or_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = {}
    for part, count, suffix in (("train", 5, ".gz"), ("t10k", 3, "")):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count).astype(np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", labels)
        written[part] = images, labels
    actual = mnist(tmp_path)
    for split, part in ((actual.training, "train"), (actual.held_out, "t10k")):
        np.testing.assert_array_equal(split.images, written[part][0])
        np.testing.assert_array_equal(split.labels, written[part][1])
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03abc")
    with pytest.raises(QqonnxError, match="t10k-images-idx3-ubyte: cannot be read"):
        mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(QqonnxError, match="no file t10k-images"):
        mnist(tmp_path)


def test_splits_are_read_as_written(tmp_path: Path) -> None:
    split = Split(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.array([2, 0, 1]))
    write_npz(tmp_path / "split.npz", split)
    actual = read_npz(tmp_path / "split.npz")
    np.testing.assert_array_equal(actual.images, split.images)
    np.testing.assert_array_equal(actual.labels, split.labels)

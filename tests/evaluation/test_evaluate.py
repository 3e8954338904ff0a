"""Evaluation on synthetic image folders with known answers."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from building import Build
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qqonnx import QqonnxError
from qqonnx.cli import main
from qqonnx.evaluation import evaluate
from qqonnx.evaluation.metrics import count, divergence
from qqonnx.inputs import Preprocessing
from qqonnx.inputs.dataset import batches, open_dataset, output_indices
from qqonnx.inputs.preprocessing import apply, from_json

PLAIN = Preprocessing(8, 8, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
COLORS = ("a_red", "b_green", "c_blue")
AVERAGE = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,3,8,8] x) => (float[N,3] y) { a = GlobalAveragePool(x)  y = Flatten(a) }"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for channel, name in enumerate(COLORS):
        (root / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.zeros((10, 12, 3), np.uint8)
            pixels[..., channel] = 200 + number
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_right_answers_are_counted(folder: Path, build: Build) -> None:
    model = build(AVERAGE, {})
    result = evaluate([model], folder, baseline=model, preprocessing=PLAIN.to_json())
    (row,) = result.rows
    assert (row.samples, row.top1, row.top5, row.agreement, row.kl) == (12, 1.0, None, 1.0, 0.0)
    assert row.load_ratio == row.latency_ratio == 1.0


@given(size=st.integers(1, 13))
def test_batch_size_changes_nothing(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3)).astype(np.uint8)
    from qqonnx.inputs.dataset import Dataset

    dataset = Dataset(Path(), tuple(images), np.arange(12), ())
    stacked = np.concatenate([batch.images for batch in batches(dataset, PLAIN, size)])
    (whole,) = batches(dataset, PLAIN, 12)
    np.testing.assert_array_equal(stacked, whole.images)


def test_unreadable_images_are_named(folder: Path, build: Build) -> None:
    (folder / "a_red" / "broken.png").write_bytes(b"no image")
    result = evaluate([build(AVERAGE, {})], folder, preprocessing=PLAIN.to_json())
    assert [Path(name).name for name in result.unreadable] == ["broken.png"]
    assert result.rows[0].samples == 12


def damage(folder: Path) -> set[str]:
    """Put into a folder of images what cannot be read; return the names."""
    whole = (folder / "0.png").read_bytes()
    (folder / "text.png").write_bytes(b"no image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.png").write_bytes(whole[:-30])
    (folder / "folder.png").mkdir()
    (folder / "nowhere.png").symlink_to("missing")
    (folder / "\x1b[31mred.png").write_bytes(b"no image")
    Image.new("L", (1, 800_000)).save(folder / "strip.png")
    names = {"text", "truncated", "folder", "nowhere", "\x1b[31mred", "strip"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        names.add("pipe")
    return {f"{name}.png" for name in names} | {"empty.jpg"}


CONV = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,3,224,224] x) => (float[N,3] y) {
    c = Conv <strides = [56, 56]> (x, w)  a = GlobalAveragePool(c)  y = Flatten(a) }"""


@pytest.mark.parametrize("command", ["evaluate", "convert"])
def test_what_cannot_be_read_is_left_out_counted_and_named(
    folder: Path,
    tmp_path: Path,
    build: Build,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    names = damage(folder / "b_green")
    kernel = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    model, output = build(CONV, {"w": kernel}), tmp_path / "small.onnx"
    for form in ([], ["--json"]):
        if command == "evaluate":
            words = [command, str(model), "--data", str(folder), *form]
        else:
            words = [command, str(model), "-o", str(output), "--calibration", str(folder), *form]
        monkeypatch.setattr(sys, "argv", ["qqonnx", *words])
        with contextlib.suppress(SystemExit):
            main()
        out, err = capsys.readouterr()
        if form:
            found = {Path(name).name for name in json.loads(out)["unreadable"]}
            assert found == names
            continue
        text = out + err
        assert f"{len(names)} images left out" in text
        assert "\x1b" not in text
        for name in names:
            assert name.replace("\x1b", "\\x1b") in text
        assert ("12 images" if command == "evaluate" else "12 samples") in text


def test_fixed_batch_size(folder: Path, build: Build) -> None:
    model = build(AVERAGE.replace("[N,", "[5,"), {})
    assert evaluate([model], folder, preprocessing=PLAIN.to_json()).rows[0].top1 == 1.0


def test_imagenet_folders_go_by_wordnet_id(tmp_path: Path) -> None:
    for name in ("n01440764", "n03888257", "n02102040"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.jpg")
    dataset = open_dataset(tmp_path)
    np.testing.assert_array_equal(output_indices(dataset, 1000), [0, 217, 701])
    np.testing.assert_array_equal(output_indices(dataset, 1001), [1, 218, 702])
    with pytest.raises(QqonnxError, match="3 class folders, but the model has 10"):
        output_indices(dataset, 10)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(QqonnxError, match="no images"):
        open_dataset(tmp_path)
    with pytest.raises(QqonnxError, match="no such folder"):
        open_dataset(tmp_path / "missing")


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_metrics_against_sorting(seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    outputs, baseline = random.standard_normal((2, 20, classes)).astype(np.float32)
    answers = random.integers(0, classes, 20)
    found = count(outputs, answers, baseline)
    order = np.argsort(-outputs, axis=1, kind="stable")
    assert found.top1 == sum(row[0] == answer for row, answer in zip(order, answers, strict=True))
    assert found.top5 == sum(answer in row[:5] for row, answer in zip(order, answers, strict=True))
    p, q = (np.exp(x.astype(np.float64)) for x in (baseline, outputs))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    np.testing.assert_allclose(divergence(baseline, outputs), (p * np.log(p / q)).sum(1), rtol=1e-6)
    np.testing.assert_allclose(divergence(p, q), (p * np.log(p / q)).sum(1), rtol=1e-4, atol=1e-9)


@given(st.integers(8, 70), st.integers(8, 70))
def test_preprocessing_gives_the_crop(width: int, height: int) -> None:
    pixels = np.full((height, width, 3), 51, np.uint8)
    out = apply(Image.fromarray(pixels), Preprocessing(9, 8, "bicubic", (0.2,) * 3, (0.5,) * 3))
    assert out.shape == (3, 8, 8)
    np.testing.assert_allclose(out, 0, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("size", [(40, 33), (33, 40), (64, 64)])
def test_preprocessing_is_torchvisions(size: tuple[int, int]) -> None:
    pytest.importorskip("torchvision")
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    theirs = ImageClassification(
        crop_size=24, resize_size=29, interpolation=InterpolationMode.BILINEAR
    )(image)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ours = apply(image, Preprocessing(29, 24, "bilinear", mean, std))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_preprocessing_json() -> None:
    assert from_json(PLAIN.to_json()) == PLAIN
    for text in ("", "[]", "{}", PLAIN.to_json().replace("bilinear", "magic")):
        with pytest.raises(QqonnxError, match="preprocessing"):
            from_json(text)

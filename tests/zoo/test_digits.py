"""The embedded model: what its card says holds, with nothing but ONNX Runtime and Pillow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

Image = pytest.importorskip("PIL.Image")

MODELS = Path(__file__).parents[2] / "models"
MODEL = MODELS / "digits_mobilenet_v3_small.onnx"


@pytest.fixture(scope="module")
def card() -> str:
    return (MODELS / "README.md").read_text(encoding="utf-8")


def count_correct() -> tuple[int, int]:
    """Return how many held-out images are named correctly, and how many there are."""
    held_out = np.load(MODELS / "digits_test.npz")
    metadata = {entry.key: entry.value for entry in onnx.load(MODEL).metadata_props}
    preprocessing = json.loads(metadata["qqonnx.preprocessing"])
    assert preprocessing["resize"] == preprocessing["crop"]
    size = (preprocessing["crop"],) * 2
    images = np.stack([
        np.asarray(Image.fromarray(image).convert("RGB").resize(size, Image.Resampling.BILINEAR))
        for image in held_out["images"]
    ])  # fmt: skip
    inputs = (images / 255 - preprocessing["mean"]) / preprocessing["std"]
    logits = ort.InferenceSession(MODEL).run(
        None, {"input": inputs.transpose(0, 3, 1, 2).astype(np.float32)}
    )[0]
    return int((logits.argmax(1) == held_out["labels"]).sum()), len(held_out["labels"])


def test_accuracy_is_what_the_card_says(card):
    said = re.search(r"accuracy: (\d+) of (\d+) images", card)
    assert said is not None
    correct, total = count_correct()
    assert total == int(said[2])
    # One image may lie on the edge, where another processor's rounding decides.
    assert abs(correct - int(said[1])) <= 1
    assert correct >= 0.98 * total


def test_sizes_are_what_the_card_says(card):
    for path in (MODEL, MODELS / "digits_test.npz"):
        assert f"{path.stat().st_size:,} bytes" in card
    assert MODEL.stat().st_size < 6.2e6


def test_held_out_images_are_balanced():
    held_out = np.load(MODELS / "digits_test.npz")
    assert held_out["images"].dtype == np.uint8
    assert held_out["images"].shape == (360, 8, 8)
    assert held_out["images"].max() == 255
    assert held_out["labels"].dtype == np.int64
    counts = np.bincount(held_out["labels"], minlength=10)
    assert counts.min() >= 34


def test_held_out_images_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    known = {
        (np.rint(image * (255 / 16)).astype(np.uint8).tobytes(), label)
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    held_out = np.load(MODELS / "digits_test.npz")
    assert all(
        (image.tobytes(), label) in known
        for image, label in zip(held_out["images"], held_out["labels"], strict=True)
    )

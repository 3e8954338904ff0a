"""The evaluation loop against metrics computed in one piece, with and without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from building import Build, normal

from qqonnx import QqonnxError
from qqonnx.evaluation.loaded import load_model
from qqonnx.evaluation.metrics import divergence
from qqonnx.evaluation.samples import Samples, image_samples
from qqonnx.evaluation.score import reference_outputs, score_models
from qqonnx.inputs.dataset import Dataset, batches, open_dataset
from qqonnx.inputs.preprocessing import Preprocessing

STEPS = Preprocessing(8, 8, "bilinear", (0.5,) * 3, (0.25,) * 3)
LINEAR = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,3,8,8] x) => (float[N,CLASSES] y) { f = Flatten(x)  y = MatMul(f, w) }"""


def linear(build: Build, classes: int, seed: int) -> Path:
    path = build(LINEAR.replace("CLASSES", str(classes)), {"w": normal(192, classes, seed=seed)})
    return path.rename(path.with_name(f"{classes}-{seed}.onnx"))


@pytest.fixture
def dataset() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3)).astype(np.uint8)
    return Dataset(Path("x.npz"), tuple(images), np.arange(21) % 7)


def samples_of(dataset: Dataset, size: int = 4) -> Samples:
    return image_samples(dataset, lambda: batches(dataset, STEPS, size))


def test_scores_are_those_of_all_outputs_at_once(build: Build, dataset: Dataset) -> None:
    first, second = (load_model(linear(build, 7, seed)) for seed in (0, 1))
    seen: list[tuple[int, int]] = []
    result = score_models(
        [first, second], samples_of(dataset), progress=lambda *counts: seen.append(counts)
    )
    scores = result.scores
    assert seen == [(4, 21)] * 5 + [(1, 21)]
    assert (result.unreadable, result.notes, result.outputs) == ((), (), ((), ()))
    (whole,) = batches(dataset, STEPS, 21)
    expected, outputs = (model.run({"x": whole.images})["y"] for model in (first, second))
    order = np.argsort(-outputs, axis=1)
    labels = dataset.labels[:, None]
    assert scores[0].samples == scores[1].samples == 21
    assert (scores[0].agreement, scores[0].kl) == (1.0, 0.0)
    assert scores[1].top1 == (order[:, :1] == labels).any(axis=1).mean()
    assert scores[1].top5 == (order[:, :5] == labels).any(axis=1).mean()
    assert scores[1].agreement == (order[:, 0] == expected.argmax(axis=1)).mean()
    assert scores[1].kl == pytest.approx(divergence(expected, outputs).mean(), rel=1e-5)
    assert {*scores[1].intervals} == {"top1", "top5", "agreement"}
    for name, (low, high) in scores[1].intervals.items():
        assert low < getattr(scores[1], name) < high


def test_stored_outputs_replace_the_reference_model(build: Build, dataset: Dataset) -> None:
    first, second = (load_model(linear(build, 7, seed)) for seed in (0, 1))
    together = score_models([first, second], samples_of(dataset)).scores
    stored = reference_outputs(first, samples_of(dataset))
    alone = score_models([second], samples_of(dataset), reference=stored).scores
    assert alone == together[1:]


def test_without_labels_or_with_few_classes_metrics_are_none(
    build: Build, dataset: Dataset
) -> None:
    model = load_model(linear(build, 7, 0))
    (labeled,) = score_models([model], samples_of(dataset)).scores
    (score,) = score_models([model], samples_of(replace(dataset, labels=None))).scores
    assert score == replace(labeled, top1=None, top5=None)
    few = replace(dataset, labels=dataset.labels % 3)
    (score,) = score_models([load_model(linear(build, 3, 0))], samples_of(few)).scores
    assert score.top1 is not None
    assert score.top5 is None


def test_labels_that_do_not_fit_are_left_out_with_the_reason(
    build: Build, dataset: Dataset
) -> None:
    result = score_models([load_model(linear(build, 5, 0))], samples_of(dataset))
    assert result.scores[0].top1 is None
    assert result.scores[0].agreement == 1
    assert result.notes == ("labels are not used: x.npz: label 6, but the model has 5 outputs",)


def test_models_with_different_numbers_of_outputs_are_refused(
    build: Build, dataset: Dataset
) -> None:
    models = [load_model(linear(build, classes, 0)) for classes in (7, 8)]
    with pytest.raises(QqonnxError, match=r"8-0\.onnx: 8 outputs, but .* has 7"):
        score_models(models, samples_of(dataset))


def test_no_readable_image_is_an_error(build: Build, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    dataset = open_dataset(tmp_path / "images", labels_required=False)
    model = load_model(linear(build, 7, 0))
    with pytest.raises(QqonnxError, match="none of its 1 images can be read"):
        score_models([model], samples_of(dataset))


def test_images_without_labels_are_refused_where_labels_are_required(tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    with pytest.raises(QqonnxError, match="`labels`"):
        open_dataset(tmp_path / "images.npz")
    dataset = open_dataset(tmp_path / "images.npz", limit=2, labels_required=False)
    assert (len(dataset.items), dataset.labels) == (2, None)
    with pytest.raises(QqonnxError, match="limit: at least 1, not 0"):
        open_dataset(tmp_path / "images.npz", limit=0)

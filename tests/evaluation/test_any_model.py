"""Evaluation of models that are no image classifiers, with data of every form."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from building import Build, normal
from PIL import Image

from qqonnx import Options, QqonnxError, compress, evaluate
from qqonnx.cli import main

TWO = """<ir_version: 8, opset_import: ["": 17]>
m (int64[b,t] ids, float[2,b,16] state, float rate) => (float[b,t,16] y, float[2,b,16] next) {
  e = Gather(table, ids)  a = MatMul(e, w)  y = Mul(a, rate)
  v = MatMul(state, u)  next = Tanh(v) }"""


@pytest.fixture
def models(build: Build, tmp_path: Path) -> tuple[Path, Path]:
    weights = {"table": normal(50, 16), "w": normal(16, 16, seed=1), "u": normal(16, 16, seed=2)}
    model = build(TWO, weights)
    small = tmp_path / "small.onnx"
    compress(model, small, Options(bits=4, min_size=16))
    return model, small


def runs(count: int = 5) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    for number in range(count):
        yield {
            "ids": random.integers(0, 50, (1, 5 + 3 * number)),
            "state": random.standard_normal((2, 1, 16)).astype(np.float32),
            "rate": np.array(0.5, np.float32),
            "title": np.array(f"run {number}"),
        }


def test_runs_of_every_form_give_the_numbers_of_the_outputs(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, small = models
    folder = tmp_path / "runs"
    folder.mkdir()
    for number, feed in enumerate(runs()):
        np.savez(folder / f"{number}.npz", **feed)
    (tmp_path / "evaluation_runs.py").write_text(
        "import numpy as np\n"
        "def runs():\n"
        f"    for n in range(5): yield dict(np.load(f'{folder}/{{n}}.npz'))\n"
    )
    monkeypatch.chdir(tmp_path)
    rows = [
        evaluate(small, data, baseline=model).rows[1]
        for data in (list(runs()), runs(), folder, "evaluation_runs:runs")
    ]
    assert all(row.outputs == rows[0].outputs for row in rows)
    assert rows[0].samples == 5
    first, second = (ort.InferenceSession(path) for path in models)
    names = ("ids", "state", "rate")
    pairs = [
        (first.run(None, {n: f[n] for n in names}), second.run(None, {n: f[n] for n in names}))
        for f in runs()
    ]
    for number, quality in enumerate(rows[0].outputs):
        exact, other = (np.concatenate([p[side][number].ravel() for p in pairs]) for side in (0, 1))
        difference = other.astype(np.float64) - exact
        assert quality.max_difference == pytest.approx(abs(difference).max())
        ratio = np.square(exact.astype(np.float64)).sum() / np.square(difference).sum()
        assert quality.sqnr == pytest.approx(10 * np.log10(ratio))
        assert (quality.agreement, quality.kl) == (None, None)
    assert rows[0].cosine == min(quality.cosine for quality in rows[0].outputs)
    assert rows[0].max_difference == max(quality.max_difference for quality in rows[0].outputs)


def test_stacked_arrays_and_their_labels(build: Build, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[n,16] x, float[n,16] z) => (float[n,7] y) { s = Add(x, z)  y = MatMul(s, w) }"""
    weight = normal(16, 7)
    model = build(text, {"w": weight})
    arrays = {"x": normal(30, 16), "z": normal(30, 16, seed=1)}
    correct = ((arrays["x"] + arrays["z"]) @ weight).argmax(axis=1)
    labels = np.where(np.arange(30) < 24, correct, (correct + 1) % 7)
    np.savez(tmp_path / "data.npz", **arrays, labels=labels)
    (row,) = evaluate(model, tmp_path / "data.npz").rows
    assert (row.samples, row.top1) == (30, 0.8)
    low, high = row.intervals["top1"]
    assert low < 0.8 < high
    for labels in (np.arange(30), normal(30), np.arange(29)):
        np.savez(tmp_path / "data.npz", **arrays, labels=labels)
        result = evaluate(model, tmp_path / "data.npz", baseline=model)
        assert result.rows[0].top1 is None
        assert result.rows[0].agreement == 1


DETECTOR = """<ir_version: 8, opset_import: ["": 17]>
m (float[1,3,16,16] x) => (float[1,6,64] y) {
  c = Conv<strides = [2, 2]>(x, w)  y = Reshape(c, shape) }"""


def test_class_folders_that_do_not_fit_are_evaluated_without_labels(
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = build(DETECTOR, {"w": normal(6, 3, 2, 2), "shape": np.array([1, 6, 64])})
    for number in range(6):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    words = ["evaluate", model, "--data", tmp_path / "images"]
    monkeypatch.setattr(sys, "argv", ["qqonnx", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "--baseline: is needed, because labels are not used" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["qqonnx", *map(str, words), "--baseline", str(model)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "labels are not used" in out
    assert "6 images of" in out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--json"])
    with pytest.raises(SystemExit):
        main()
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["outputs"][0]["cosine"] == pytest.approx(1)
    assert row["top1"] is None


def test_outputs_of_another_shape_are_left_out_with_a_note(build: Build, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[n,8] x) => (float[p] y, float[n,8] z) {
      g = Greater(x, limit)  f = Reshape(g, all)  y = Compress(x, f)  z = Neg(x) }"""
    paths = [
        build(text, {"limit": np.float32(limit), "all": np.array([-1])}, f"{limit}.onnx")
        for limit in (0.0, 0.5)
    ]
    result = evaluate(paths[1], [{"x": normal(4, 8)}], baseline=paths[0])
    assert [quality.name for quality in result.rows[1].outputs] == ["z"]
    assert result.notes == ("0.5.onnx: output 'y' has another shape in 1 runs, not compared",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"ids": np.zeros((1, 4), np.int64)}], "feed 0: has no array for the input 'state'"),
        ("nowhere", "no such folder"),
        ("math:nowhere", "math:nowhere: AttributeError"),
        (None, "data: is needed"),
    ],
)
def test_what_cannot_be_used_says_why(
    models: tuple[Path, Path], data: object, message: str
) -> None:
    with pytest.raises(QqonnxError, match=message):
        evaluate(models[1], data, baseline=models[0])


def test_images_for_a_model_that_takes_none(models: tuple[Path, Path], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(QqonnxError, match="holds images, but .* takes no batch of images"):
        evaluate(models[1], tmp_path, baseline=models[0])

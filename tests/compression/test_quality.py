"""What the outputs lost: measured against the original model, and told last, whatever the task."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Calibration, Options, Target, compress
from qqonnx.cli import convert_model
from qqonnx.compression.judge import lost_output
from qqonnx.compression.quality import _quality

DETECTOR = """<ir_version: 8, opset_import: ["": 17]>
m (float[n,3,16,16] images) => (float[n,C,A] OUT) {
  a = Conv<pads = [1, 1, 1, 1]>(images, w0)  b = Relu(a)
  c = Conv<pads = [1, 1, 1, 1]>(b, w1)  d = Relu(c)
  e = Conv<pads = [1, 1, 1, 1]>(d, box0)  f = Relu(e)  g = Conv(f, box1)  boxes = Mul(g, pixels)
  h = Conv<pads = [1, 1, 1, 1]>(d, cls0)  i = Relu(h)  j = Conv(i, cls1)  scores = Sigmoid(j)
  END
}"""

SHAPES = {
    "w0": (48, 3, 3, 3),
    "w1": (64, 48, 3, 3),
    "box0": (32, 64, 3, 3),
    "box1": (4, 32, 1, 1),
    "cls0": (64, 64, 3, 3),
    "cls1": (20, 64, 1, 1),
}


def detector(build: Build, *, joined: bool) -> Path:
    """Return a detector with boxes in pixels and scores in 0..1, in one output or in two."""
    text = DETECTOR.replace(
        "END",
        "k = Concat<axis = 1>(boxes, scores)  output0 = Reshape(k, shape)"
        if joined
        else "p = Reshape(boxes, shape4)  q = Reshape(scores, shape20)",
    ).replace(
        "float[n,C,A] OUT",
        "float[n,C,A] output0" if joined else "float[n,C,A] p, float[n,D,A] q",
    )
    arrays = {
        name: 1.4 * normal(*shape, seed=seed) / np.sqrt(np.prod(shape[1:]))
        for seed, (name, shape) in enumerate(SHAPES.items())
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays["pixels"] = np.array(100, np.float32)
    wanted = {"shape": 24} if joined else {"shape4": 4, "shape20": 20}
    arrays |= {name: np.array([0, channels, -1]) for name, channels in wanted.items()}
    return build(text, arrays, f"{joined}.onnx")


def best_classes(path: Path) -> np.ndarray:
    images = normal(8, 3, 16, 16, seed=77)
    outputs = ort.InferenceSession(path).run(None, {"images": images})
    scores = outputs[0][:, 4:] if len(outputs) == 1 else outputs[1]
    return scores.argmax(axis=1)


@pytest.mark.parametrize("joined", [True, False], ids=["one output", "two outputs"])
def test_a_detector_keeps_its_classes(build: Build, tmp_path: Path, joined: bool) -> None:
    """Boxes in pixels do not drown the scores, whether they share an output or not."""
    model = detector(build, joined=joined)
    plain, best = tmp_path / "plain.onnx", tmp_path / "best.onnx"
    size = compress(model, plain, Options(bits=4, granularity="scale", min_size=64)).bytes_after
    calibration = Calibration(samples=64, target=Target(size=size))
    report = compress(model, best, Options(min_size=64), calibration=calibration)
    assert report.bytes_after <= size
    assert min(weight.levels for weight in report.weights) > 2
    expected = best_classes(model)
    share_plain, share_best = ((best_classes(p) == expected).mean() for p in (plain, best))
    assert share_best > share_plain


def test_outputs_are_listed_with_the_worst_first(build: Build, tmp_path: Path) -> None:
    model = detector(build, joined=False)
    report = compress(model, tmp_path / "o.onnx", Options(method="kmeans", bits=3, min_size=64))
    quality = report.quality
    assert {output.name for output in quality.outputs} == {"p", "q"}
    errors = [output.worst_channel for output in quality.outputs]
    assert errors == sorted(errors, reverse=True)
    assert quality.poor
    assert report.to_dict()["quality"]["outputs"][0]["samples"] == 4


def told(arguments: list[object], capsys: pytest.CaptureFixture[str], monkeypatch) -> str:
    monkeypatch.setattr(sys, "argv", ["convert-model", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        convert_model()
    assert not stop.value.code
    return capsys.readouterr().out


def test_the_last_line_warns_of_a_bad_result(
    build: Build,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, out = detector(build, joined=True), tmp_path / "o.onnx"
    usual = [model, "-o", out, "--min-size", 64]
    *_, before, last = told([*usual, "--bits", 2, "--fast"], capsys, monkeypatch).splitlines()
    assert before.startswith("  output0: relative error ")
    assert last.startswith("warning: 'output0' lost much; --method auto loses less at this size")
    *_, last = told([*usual, "--target-bits", 3], capsys, monkeypatch).splitlines()
    assert "--calibration INPUTS" in last
    *_, last = told([*usual, "--bits", 8], capsys, monkeypatch).splitlines()
    assert last.startswith("  output0: relative error ")


def test_the_last_line_warns_of_another_length(
    build: Build,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[8, 64] x) => (float[k] y) {
      zero = Constant<value = float {0.0}>()  flat = Constant<value = int64[1] {-1}>()
      h = MatMul(x, w)  above = Greater(h, zero)  where = Reshape(above, flat)
      values = Reshape(h, flat)  y = Compress<axis = 0>(values, where)
    }"""
    arguments: list[object] = [build(text, {"w": normal(64, 64)}), "-o", tmp_path / "o.onnx"]
    *_, before, last = told([*arguments, "--bits", 2], capsys, monkeypatch).splitlines()
    assert before.startswith("outputs not compared with the original model: y: its shape changed")
    assert last.startswith("warning: 'y' may have lost much; judge it by your own metric")


def test_outputs_that_cannot_be_compared(build: Build, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,64] x, seq(float[N,64]) s) => (float[N,M] y) { y = MatMul(x, w) }"""
    report = compress(build(text, {"w": normal(64, 80)}), tmp_path / "o.onnx")
    assert report.quality.outputs == ()
    assert report.quality.reason
    assert not report.quality.poor


def test_models_that_refuse_synthetic_samples_get_noise(build: Build, tmp_path: Path) -> None:
    """The batch is open, but only one sample fits."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,64] x) => (float[N,M] y) { r = Reshape(x, shape)  y = MatMul(r, w) }"""
    model = build(text, {"w": normal(64, 80), "shape": np.array([1, 64])})
    report = compress(model, tmp_path / "o.onnx")
    assert report.quality.reason is None
    assert report.quality.source == "seeded noise"
    assert onnx.load(tmp_path / "o.onnx").graph.node


def test_outputs_that_are_not_finite_are_named(
    build: Build,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,64] x) => (float[N,80] y, float[N,80] z) {
      y = MatMul(x, w)  a = Mul(y, zero)  z = Div(a, a) }"""
    model = build(text, {"w": normal(64, 80), "zero": np.array(0, np.float32)})
    out = tmp_path / "o.onnx"
    last = told([model, "-o", out, "--min-size", 64], capsys, monkeypatch).splitlines()[-1]
    assert last == "  z: not compared, because it is not finite in the original model"


def test_an_output_that_is_no_longer_finite_is_a_loss() -> None:
    exact = [[np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)]]
    broken = [[np.ones((2, 3), np.float32), np.full((2, 3), np.inf, np.float32)]]
    ours, theirs = (_quality(["y", "z"], exact, other, "") for other in (broken, exact))
    assert ours.poor == ("z",)
    assert theirs.poor == ()
    assert lost_output(ours, theirs, {}) == "z"
    assert lost_output(ours, theirs, {"z": 0.0}) is None
    assert lost_output(theirs, ours, {}) is None


def test_models_that_refuse_noise_are_verified_on_the_calibration_inputs(
    build: Build, tmp_path: Path
) -> None:
    """The length of the second input must be the value of the first, which noise never meets."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (int64[1] length, float[1,n] x) => (float[1,80] y) {
      first = Slice(x, zero, length, one)  r = Reshape(first, shape)  y = MatMul(r, w) }"""
    constants = {"zero": np.array([0]), "one": np.array([1]), "shape": np.array([1, 64])}
    model = build(text, {"w": normal(64, 80), **constants})
    runs = [{"length": np.array([64]), "x": normal(1, 70, seed=seed)} for seed in range(8)]
    calibration = Calibration(runs, target=Target(bits=6))
    report = compress(model, tmp_path / "o.onnx", Options(min_size=64), calibration=calibration)
    assert report.outputs.reason is None
    assert report.outputs.equal
    assert report.quality.reason is None

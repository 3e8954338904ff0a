"""Calibration inputs of any form: stacked, one run at a time, of free shapes, or synthetic."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Calibration, Options, QqonnxError, Target, compress
from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.calibration.synthetic.feeds import SIZES
from qqonnx.cli import convert_model
from qqonnx.model.load import load

TOKENS = """<ir_version: 8, opset_import: ["": 17]>
m (int64[b,t] ids, float[2,b,16] state, float rate) => (float[b,t,16] y, float[2,b,16] next) {
  e = Gather(table, ids)  a = MatMul(e, w)  y = Mul(a, rate)
  v = MatMul(state, u)  next = Tanh(v) }"""


@pytest.fixture
def model(build: Build) -> Path:
    """Return a model with a variable length, a state with the batch second, and a scalar."""
    weights = {"table": normal(50, 16), "w": normal(16, 16, seed=1), "u": normal(16, 16, seed=2)}
    return build(TOKENS, weights)


def feeds(count: int = 6) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    for number in range(count):
        yield {
            "ids": random.integers(0, 50, (1, 5 + 3 * number)),
            "state": random.standard_normal((2, 1, 16)).astype(np.float32),
            "rate": np.float32(0.5),
        }


OPTIONS = Options(min_size=64)
CALIBRATED = {"w", "u", "table"}


def test_a_folder_of_runs_a_function_and_given_feeds_are_alike(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for number, feed in enumerate(feeds()):
        np.savez(folder / f"{number:03d}.npz", **feed)
    (tmp_path / "own_inputs.py").write_text(
        "import numpy as np\n"
        "def runs():\n"
        "    for number in range(6):\n"
        f"        yield dict(np.load(f'{folder}/{{number:03d}}.npz'))\n"
    )
    monkeypatch.chdir(tmp_path)
    target = Target(bits=12)
    models = []
    for data in (folder, "own_inputs:runs", list(feeds()), feeds()):
        report = compress(model, options=OPTIONS, calibration=Calibration(data, target=target))
        assert {weight.name for weight in report.weights} == CALIBRATED
        assert report.calibration is not None
        assert report.calibration.startswith("6 runs of ")
        assert report.quality.reason is None
        models.append(report.model)
    assert all(entry == models[0] for entry in models)
    assert "own_inputs" in sys.modules


def test_arrays_without_a_sample_axis_go_into_every_run(build: Build, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[n,16] x, float[2,16] both, int64 rate) => (float[n,M] y) {
      s = ReduceSum(both)  r = Cast<to = 1>(rate)
      a = MatMul(x, w)  b = Add(a, s)  y = Mul(b, r) }"""
    model = load(build(text, {"w": normal(16, 64)}))
    arrays = {"x": normal(20, 16), "both": normal(2, 16), "rate": np.array(3)}
    np.savez(tmp_path / "x.npz", **arrays)
    inputs = calibration_inputs(model, tmp_path / "x.npz", 100)
    assert inputs.count + sum(len(feed["x"]) for feed in inputs.held_out) == 20
    runs = list(inputs.batches())
    found = np.concatenate([run["x"] for run in [*runs, *inputs.held_out]])
    assert sorted(found.tolist()) == sorted(arrays["x"].tolist())
    assert all(run["both"].shape == (2, 16) and run["rate"].ndim == 0 for run in runs)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "gives no feeds"),
        ([{"ids": np.zeros((1, 4), np.int64)}], "feed 0: has no array for the input 'state'"),
        ([{"ids": np.zeros(4, np.int64)}], "feed 0: 'ids' has 1 dimensions, the input has 2"),
        ([{"ids": np.array([["a"]])}], "'ids' is an array of <U1, not of numbers"),
        (3, "'int' object is not iterable"),
        ("no_such_module:runs", "no_such_module:runs: ModuleNotFoundError: No module named"),
        ("math:no_such_function", "math:no_such_function: AttributeError"),
    ],
)
def test_what_cannot_be_used_says_why(model: Path, data: object, message: str) -> None:
    with pytest.raises(QqonnxError, match=message):
        compress(model, options=OPTIONS, calibration=Calibration(data))


@pytest.mark.parametrize("samples", [300, 1000, 5000, 100_000])
def test_open_axes_get_a_size_that_runs(build: Build, samples: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[b,n] x) => (float[b,64,f] y) {{
      u = Unsqueeze(x, axis)
      y = Conv<dilations = [{samples // 15}], strides = [{samples // 2}]>(u, w) }}"""
    path = build(text, {"w": normal(64, 1, 16), "axis": np.array([1])})
    inputs = calibration_inputs(load(path), None, 16)
    if samples > max(SIZES["waveform"]):
        report = compress(path, options=OPTIONS, calibration=Calibration())
        assert report.doubt is not None
        assert "from the weights alone: calibration: the model: does not run" in report.doubt
        return
    (feed, *_) = inputs.batches()
    assert feed["x"].shape[1] >= samples
    ort.InferenceSession(path).run(None, feed)


def test_synthetic_masks_are_ones_lengths_whole_and_indices_in_their_table(build: Build) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (int64[b,t] ids, int64[b,t] attention_mask, int64[b] input_lengths, float scale)
      => (float[b,t,16] y) { e = Gather(table, ids)  y = Mul(e, scale) }"""
    model = load(build(text, {"table": normal(50, 16)}))
    for feed in calibration_inputs(model, None, 16).batches():
        length = feed["ids"].shape[1]
        assert (feed["attention_mask"] == 1).all()
        assert (feed["input_lengths"] == length).all()
        assert feed["ids"].max() < 50
        assert len(np.unique(feed["ids"])) > 10
        assert feed["scale"].ndim == 0


def test_the_command_takes_a_function(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "voice_inputs.py").write_text(
        "import numpy as np\n"
        "def runs():\n"
        "    for n in (3, 9): yield {'ids': np.zeros((1, n), np.int64), 'rate': np.float32(1),\n"
        "                            'state': np.ones((2, 1, 16), np.float32)}\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [model, "-o", "o.onnx", "--min-size", 64, "--calibration", "voice_inputs:runs", "-q"]
    monkeypatch.setattr(sys, "argv", ["convert-model", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        convert_model()
    assert not stop.value.code
    assert (tmp_path / "o.onnx").is_file()


def test_held_out_synthetic_inputs_run_also_where_an_input_has_no_axes(model: Path) -> None:
    inputs = calibration_inputs(load(model), None, 8)
    session = ort.InferenceSession(model)
    for feed in inputs.held_out:
        assert feed["rate"].shape == ()
        session.run(None, dict(feed))

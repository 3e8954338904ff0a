"""The smallest file that loses at most a share of the answers or of a metric."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Calibration, OptionError, Options, QqonnxError, Target, compress
from qqonnx.cli import convert_model
from qqonnx.evaluation import Metric
from qqonnx.evaluation.intervals import wilson

MLP = """<ir_version: 8, opset_import: ["": 17]>
m (float[n,16] x) => (float[n,OUTPUTS] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"""

OPTIONS = Options(min_size=64)


@pytest.fixture
def mlp(build: Build) -> Path:
    weights = {"w": normal(16, 96), "v": normal(96, 12, seed=1)}
    return build(MLP.replace("OUTPUTS", "12"), weights)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    x = normal(80, 16, seed=2)
    np.savez(tmp_path / "data.npz", x=x, weight=np.linspace(1, 2, 80), labels=np.arange(80) % 12)
    return tmp_path / "data.npz"


def outputs_of(path: Path, x: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(path).run(None, {"x": x})[0])


def test_changed_answers_are_reported_with_their_interval(mlp: Path, data: Path) -> None:
    sizes = []
    for share in (0.05, 0.4):
        calibration = Calibration(data, target=Target(max_drop=share))
        report = compress(mlp, options=OPTIONS, calibration=calibration)
        drop = report.drop
        assert drop is not None
        assert drop.lost <= share
        # The second half of 80 samples.
        assert (drop.metric, drop.samples) == ("answers", 40)
        low, high = wilson(1 - drop.lost, 40)
        assert drop.interval == pytest.approx((1 - high, 1 - low))
        assert report.to_dict()["drop"]["lost"] == drop.lost
        sizes.append(report.bytes_after)
    assert sizes[1] < sizes[0]


def test_a_metric_of_outputs_judges_held_out_samples(mlp: Path, data: Path) -> None:
    calls = []

    def likeness(outputs: list, references: list, feeds: list, labels: np.ndarray) -> np.ndarray:
        calls.append((outputs, references, feeds, labels))
        errors = [
            abs(run["y"] - exact["y"]).mean(axis=1)
            for run, exact in zip(outputs, references, strict=True)
        ]
        return 1 - np.concatenate(errors) / 10

    target = Target(max_drop=0.05, metric=likeness)
    report = compress(mlp, options=OPTIONS, calibration=Calibration(data, target=target))
    drop = report.drop
    assert drop is not None
    assert (drop.metric, drop.samples) == ("likeness", 40)
    assert 0 < drop.lost <= 0.05
    assert drop.interval is not None
    assert drop.interval[0] < drop.lost < drop.interval[1]
    _, references, feeds, labels = calls[-1]
    everything = np.load(data)
    held_out = np.concatenate([feed["x"] for feed in feeds])
    rows = [np.flatnonzero((everything["x"] == x).all(axis=1))[0] for x in held_out]
    assert len(rows) == len({*rows}) == 40
    np.testing.assert_array_equal(labels, everything["labels"][rows])
    np.testing.assert_array_equal(
        np.concatenate([feed["weight"] for feed in feeds]), everything["weight"][rows]
    )
    exact = np.concatenate([run["y"] for run in references])
    np.testing.assert_allclose(exact, outputs_of(mlp, held_out), rtol=1e-4, atol=1e-5)
    losses = [1 - np.mean(likeness(*call)) for call in list(calls)]
    assert any(loss == pytest.approx(drop.lost, rel=1e-4) for loss in losses)


@pytest.mark.parametrize("parameter", ["session", "path"])
def test_a_metric_of_the_file_judges_the_file_itself(
    mlp: Path, tmp_path: Path, parameter: str
) -> None:
    x = normal(50, 16, seed=5)
    exact = outputs_of(mlp, x)

    def error(outputs: np.ndarray) -> float:
        return 1 + float(abs(outputs - exact).mean())

    functions = {
        "session": lambda session: error(session.run(None, {"x": x})[0]),
        "path": lambda path: error(outputs_of(path, x)),
    }
    metric = Metric("error", functions[parameter], higher_is_better=False)
    output = tmp_path / "small.onnx"
    sizes = []
    for share in (0.1, 0.9):
        target = Target(max_drop=share, metric=metric)
        report = compress(mlp, output, OPTIONS, calibration=Calibration(target=target))
        assert report.drop is not None
        assert (report.drop.interval, report.drop.samples) == (None, 0)
        assert report.drop.lost == pytest.approx(error(outputs_of(output, x)) - 1, rel=1e-3)
        assert 0 < report.drop.lost <= share
        sizes.append(report.bytes_after)
    assert sizes[1] < sizes[0]


def test_decisions_per_position_are_answers(build: Build) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[n,t,16] x) => (float[n,t,96] y) { h = MatMul(x, w)  y = Softmax<axis = 2>(h) }"""
    model = build(text, {"w": normal(16, 96)})
    runs = [{"x": normal(1, 4 + n, 16, seed=n)} for n in range(12)]
    calibration = Calibration(runs, target=Target(max_drop=0.1))
    report = compress(model, options=OPTIONS, calibration=calibration)
    assert report.drop is not None
    assert report.drop.lost <= 0.1
    assert report.drop.samples == 6


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (None, "tells classes apart: a metric must say what may be lost"),
        (lambda outputs: 0, "is a share of the float model's <lambda>, which is 0"),
        (lambda session: float(len(session.get_outputs()[5].name)), "IndexError"),
        ("no_module:f", "no_module:f: ModuleNotFoundError"),
        ("accuracy", "metric: must be module:function or"),
    ],
)
def test_what_cannot_be_judged_is_refused(build: Build, metric: object, message: str) -> None:
    text = MLP.replace("[n,OUTPUTS]", "[n,t,12]").replace("[n,16]", "[n,t,16]")
    model = build(text, {"w": normal(16, 96), "v": normal(96, 12, seed=1)})
    runs = [{"x": normal(1, 4 + n, 16, seed=n)} for n in range(4)]
    target = Target(max_drop=0.1, metric=metric)
    with pytest.raises(QqonnxError, match=message):
        compress(model, options=OPTIONS, calibration=Calibration(runs, target=target))


def test_an_impossible_share_and_a_metric_without_a_share(mlp: Path, data: Path) -> None:
    def changed(outputs: list, references: list) -> float:
        pairs = zip(outputs, references, strict=True)
        return 1 - 0.9 * any((a["y"] != b["y"]).any() for a, b in pairs)

    target = Target(max_drop=0.1, metric=changed)
    with pytest.raises(OptionError, match="10 % is too small: 90.0 % of the changed is lost"):
        compress(mlp, options=OPTIONS, calibration=Calibration(data, target=target))
    with pytest.raises(OptionError, match=r"target\.metric: would be ignored"):
        Target(bits=4, metric=changed)


def test_the_command_says_what_was_measured(
    mlp: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "drop_metrics.py").write_text(
        "def cosine(outputs, references):\n"
        "    a, b = outputs[0]['y'], references[0]['y']\n"
        "    return float((a * b).sum() / ((a * a).sum() * (b * b).sum()) ** 0.5)\n"
    )
    monkeypatch.chdir(tmp_path)
    usual = f"convert-model {mlp} -o small.onnx --min-size 64 --calibration {data}"
    for words, text in (
        ("--max-drop 20%", "measured on 40 held-out samples, with weights fitted to others: "),
        ("--max-drop 2% --metric drop_metrics:cosine", " % of the cosine lost"),
        ("--target-bits 8 --metric drop_metrics:cosine", "error: --metric: would be ignored"),
    ):
        monkeypatch.setattr(sys, "argv", [*usual.split(), *words.split()])
        with pytest.raises(SystemExit) as stop:
            convert_model()
        out, err = capsys.readouterr()
        assert text in out + err
        assert (stop.value.code or 0) == (2 if "error" in text else 0)

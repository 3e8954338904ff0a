"""Metrics of the user: functions by name, entry points, and what they are given."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from building import Build, normal

from qqonnx import Options, QqonnxError, compress, evaluate
from qqonnx.cli import main
from qqonnx.evaluation import Metric

LINEAR = """<ir_version: 8, opset_import: ["": 17]>
m (float[n,16] x) => (float[n,7] y) { y = MatMul(x, w) }"""

MODULE = """
import numpy as np
from qqonnx.evaluation import Metric

def errors(outputs, references, feeds):
    assert all(len(feed["x"]) == len(feed["weight"]) == len(feed["labels"]) for feed in feeds)
    pairs = zip(outputs, references, feeds)
    return np.concatenate([abs(a["y"] - b["y"]).mean(1) * f["weight"] for a, b, f in pairs])

def wrong(outputs, labels):
    answers = np.concatenate([run["y"] for run in outputs]).argmax(1)
    return float((answers != labels).mean())

def mean_output(session):
    return session.run(None, {"x": np.ones((1, 16), np.float32)})[0].mean()

def file_bytes(path):
    return path.stat().st_size

WRONG = Metric("wrong answers", wrong, higher_is_better=False)
nothing = lambda: 1
other = lambda images: 1
fails = lambda session: 1 / 0
table = lambda session: [[1, 2], [3, 4]]
infinite = lambda session: float("inf")
text = "no function"
"""


@pytest.fixture
def folder(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a model, a small one, data, and the module `own_metrics`."""
    model = build(LINEAR, {"w": normal(16, 7)})
    compress(model, tmp_path / "small.onnx", Options(bits=2, min_size=16))
    labels = np.arange(40) % 7
    np.savez(tmp_path / "data.npz", x=normal(40, 16), weight=np.linspace(0, 2, 40), labels=labels)
    (tmp_path / "own_metrics.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)
    return tmp_path


def test_metrics_get_what_their_parameters_name(folder: Path) -> None:
    names = ("errors", "WRONG", "mean_output", "file_bytes")
    result = evaluate(
        "small.onnx",
        "data.npz",
        baseline="model.onnx",
        metric=[f"own_metrics:{name}" for name in names],
    )
    first, second = result.rows
    data = np.load("data.npz")
    exact, other = (
        np.concatenate(list(_outputs(folder / name, data["x"])))
        for name in ("model.onnx", "small.onnx")
    )
    errors = abs(other - exact).mean(1) * data["weight"]
    assert first.metrics["errors"] == 0
    assert second.metrics["errors"] == pytest.approx(errors.mean())
    low, high = second.intervals["errors"]
    assert high - errors.mean() == pytest.approx(1.96 * errors.std(ddof=1) / np.sqrt(40), rel=1e-3)
    assert errors.mean() - low == pytest.approx(high - errors.mean())
    assert second.metrics["wrong answers"] == pytest.approx(
        (other.argmax(1) != data["labels"]).mean()
    )
    assert second.metrics["wrong answers"] == pytest.approx(1 - (second.top1 or 0))
    assert second.metrics["file_bytes"] == second.bytes
    ones = next(_outputs(folder / "small.onnx", np.ones((1, 16), np.float32)))
    assert second.metrics["mean_output"] == pytest.approx(ones.mean())
    (_, line) = csv.DictReader(io.StringIO(result.to_csv()))
    assert float(line["errors_low"]) == low
    assert float(line["mean_output"]) == second.metrics["mean_output"]


def _outputs(path: Path, x: np.ndarray):
    import onnxruntime as ort

    session = ort.InferenceSession(path)
    for start in range(0, len(x), 8):
        yield session.run(None, {"x": x[start : start + 8]})[0]


def test_functions_need_no_name_and_metrics_of_a_session_no_data(folder: Path) -> None:
    def outputs_of(session: object) -> int:
        return len(session.get_outputs())

    metrics = [outputs_of, Metric("twice", lambda path: 2)]
    (row,) = evaluate("small.onnx", metric=metrics).rows
    assert row.metrics == {"outputs_of": 1, "twice": 2}
    assert (row.samples, row.top1, row.load_ratio) == (0, None, None)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("own_metrics:nothing", "takes nothing; a metric takes some of outputs, references"),
        ("own_metrics:other", "takes 'images'"),
        ("own_metrics:fails", "metric fails: ZeroDivisionError: division by zero"),
        ("own_metrics:table", "metric table: returns no finite number"),
        ("own_metrics:infinite", "metric infinite: returns no finite number"),
        ("own_metrics:text", "own_metrics:text is a str, not a function"),
        ("own_metrics:absent", "own_metrics:absent: AttributeError"),
        ("absent_module:f", "absent_module:f: ModuleNotFoundError"),
        ("accuracy", "must be module:function or the name of an entry point"),
        ("own_metrics:errors", "takes 'references', which needs a baseline"),
        (["own_metrics:mean_output"] * 2, "two metrics have the name mean_output"),
        (Metric("top1", lambda path: 1), "top1 is the name of another number"),
    ],
)
def test_bad_metrics_are_named(folder: Path, metric: object, message: str) -> None:
    with pytest.raises(QqonnxError, match=message):
        evaluate("small.onnx", "data.npz", metric=metric)


def test_entry_points(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = folder / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[qqonnx.metrics]\nmean-output = own_metrics:mean_output\n"
    )
    monkeypatch.syspath_prepend(folder)
    (row,) = evaluate("small.onnx", metric="mean-output").rows
    assert {*row.metrics} == {"mean-output"}
    with pytest.raises(QqonnxError, match=r"an entry point \(mean-output\), not accuracy"):
        evaluate("small.onnx", metric="accuracy")


def test_the_command_takes_several_metrics(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "evaluate small.onnx --data data.npz --baseline model.onnx"
    words += " --metric own_metrics:errors --metric own_metrics:mean_output"
    monkeypatch.setattr(sys, "argv", ["qqonnx", *words.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    out = capsys.readouterr().out
    header = out.splitlines()[0].split()
    assert "errors" in header
    assert "mean_output" in header
    assert "errors, 95 % interval: model.onnx 0 to 0, small.onnx" in out
    assert "40 samples of data.npz" in out

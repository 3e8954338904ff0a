"""Sweeps with inputs of any form and metrics of the user, and the pages of their results."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from building import Build, normal
from sweep_rows import codebook, done, write_results

from qqonnx import QqonnxError, evaluate
from qqonnx.report.comparisons import comparisons_of
from qqonnx.report.outcomes import read_outcomes
from qqonnx.report.page import write_report
from qqonnx.sweep.config import read_config
from qqonnx.sweep.execute import execute
from qqonnx.sweep.grid import Run, runs_of
from qqonnx.sweep.sources import model_source
from qqonnx.sweep.store import COLUMNS, open_store, read_rows

MODULE = """
import numpy as np
from qqonnx.evaluation import Metric

def runs(seed=0):
    random = np.random.default_rng(seed)
    for length in range(4, 10):
        yield {"x": random.standard_normal((1, length, 16)).astype("f"), "weight": np.array(2.0)}

def other(): return runs(1)

def error(outputs, references, feeds):
    pairs = zip(outputs, references, feeds)
    return [1 + float(f["weight"]) * abs(a["y"] - b["y"]).mean() for a, b, f in pairs]

ERROR = Metric("own error", error, higher_is_better=False)

def last(session): return 3
"""

SWEEP = """
results = "results.sqlite"
models = ["model.onnx"]
datasets = ["sweep_module:runs"]
methods = ["uq"]
bits = [4]
budgets = ["12 bits"]
metrics = ["sweep_module:ERROR", "sweep_module:last"]
[options]
min_size = 64
[calibration]
data = "sweep_module:other"
"""


@pytest.fixture
def folder(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    build(
        """<ir_version: 8, opset_import: ["": 17]>
        m (float[n,t,16] x) => (float[n,t,64] y) { y = MatMul(x, w) }""",
        {"w": normal(16, 64)},
    )
    (tmp_path / "sweep_module.py").write_text(MODULE)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    monkeypatch.delitem(sys.modules, "sweep_module", raising=False)
    return tmp_path


def grid(folder: Path) -> list[Run]:
    config = read_config(folder / "sweep.toml")
    return runs_of(config, [model_source(folder / "model.onnx")], lambda _: False)[0]


def test_runs_are_scored_as_evaluate_scores_them(folder: Path) -> None:
    for run in grid(folder):
        row = execute(run, folder / "small.onnx")
        assert not set(row) - set(COLUMNS)
        metrics = json.loads(row["metrics"])
        assert metrics["last"] == {
            "value": 3,
            "low": None,
            "high": None,
            "higher_is_better": True,
        }
        sys.path.insert(0, str(folder))
        try:
            result = evaluate(
                folder / "small.onnx",
                "sweep_module:runs",
                baseline=folder / "model.onnx",
                metric="sweep_module:ERROR",
            )
        finally:
            sys.path.remove(str(folder))
        expected = result.rows[1]
        low, high = expected.intervals["own error"]
        assert metrics["own error"] == {
            "value": expected.metrics["own error"],
            "low": low,
            "high": high,
            "higher_is_better": False,
        }
        for name in ("samples", "top1", "agreement", "cosine", "sqnr", "max_difference"):
            assert row[name] == getattr(expected, name), name
        (output,) = json.loads(row["outputs"])
        assert output["cosine"] == expected.cosine


def test_what_determines_results_is_in_the_key(folder: Path) -> None:
    before = [run.key for run in grid(folder)]
    assert before == [run.key for run in grid(folder)]
    for old, new in (("(seed=0)", "(seed=5)"), ("1 + float", "2 + float"), ("runs(1)", "runs(2)")):
        sys.modules.pop("sweep_module")
        (folder / "sweep_module.py").write_text(MODULE.replace(old, new))
        after = [run.key for run in grid(folder)]
        assert after != before
        before = after


def test_a_split_is_for_images(folder: Path) -> None:
    text = SWEEP.replace('"sweep_module:other"', '"split"')
    (folder / "sweep.toml").write_text(text)
    run = grid(folder)[-1]
    with pytest.raises(QqonnxError, match="only images have a split for calibration"):
        execute(run, folder / "small.onnx")


def own(value: float, *, higher_is_better: bool = False) -> str:
    entry = {"value": value, "low": None, "high": None, "higher_is_better": higher_is_better}
    return json.dumps({"word errors": entry, "recall": {**entry, "higher_is_better": True}})


def test_pages_pick_by_the_metrics_of_the_user(tmp_path: Path) -> None:
    rows = [
        done("float32", 6_000_000, 0.9, metrics=own(10)),
        codebook("kmeans", 2, 0.5, metrics=own(14)),
        codebook("kmeans", 4, 0.85, metrics=own(10.05)),
        codebook("kmeans", 8, 0.9, metrics=own(10)),
    ]
    results = write_results(tmp_path / "results.sqlite", rows)
    errors, recall = comparisons_of(read_outcomes(results))
    assert (errors.kind.title, recall.kind.title) == ("word errors", "recall")
    picks = {loss: errors.smallest(loss) for loss in (0.0, 0.01, 0.5)}
    assert {loss: pick and pick.numbers["bits"] for loss, pick in picks.items()} == {
        0.0: 8,
        0.01: 4,
        0.5: 2,
    }
    # More is better, so the coarsest file is the best one.
    best = recall.smallest(0.0)
    assert best is not None
    assert best.numbers["bits"] == 2
    assert [outcome.numbers["bits"] for outcome in errors.frontier] == [2, 4, 8]
    assert len(recall.frontier) == 1
    page = tmp_path / "page.html"
    write_report(results, page)
    text = page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "word errors, lower is better (stretched near float)" in text
    assert "the smallest file within 1 % of float (word errors 10, 6.00 MB) is" in text
    assert 'data-column="metrics.word errors"' in text
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_without_classes_the_cosine_is_the_score(tmp_path: Path) -> None:
    rows = [
        done("float32", 6_000_000, None, cosine=1.0, agreement=None),
        codebook("kmeans", 2, None, cosine=0.9, agreement=None),
        codebook("kmeans", 4, None, cosine=0.995, agreement=None),
    ]
    results = write_results(tmp_path / "results.sqlite", rows)
    (comparison,) = comparisons_of(read_outcomes(results))
    assert (comparison.kind.name, comparison.reference) == ("cosine", 1.0)
    pick = comparison.smallest(0.01)
    assert pick is not None
    assert pick.numbers["bits"] == 4
    write_report(results, tmp_path / "page.html")
    assert "the cosine of its worst output" in (tmp_path / "page.html").read_text()


def test_files_of_schema_1_are_read_and_extended(tmp_path: Path) -> None:
    rows = [done("float32", 6_000_000, 0.9), codebook("kmeans", 4, 0.85)]
    path = write_results(tmp_path / "results.sqlite", rows)
    added = (
        "cosine",
        "sqnr",
        "relative_error",
        "max_difference",
        "intervals",
        "outputs",
        "metrics",
    )
    with sqlite3.connect(path) as store:
        for name in added:
            store.execute(f"ALTER TABLE runs DROP COLUMN {name}")
        store.execute("UPDATE meta SET value = '1'")
    (comparison,) = comparisons_of(read_outcomes(path))
    assert comparison.kind.name == "top1"
    assert added[0] not in read_rows(path)[0]
    open_store(path).close()
    assert {*read_rows(path)[0]} == {*COLUMNS}
    assert np.isclose(read_rows(path)[1]["top1"], 0.85)

"""Whole sweeps in subprocesses: results, interruption, dying workers, two sweeps at once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
from sweeping import begin, ended, environment, rows_of, small_sweep, wait_for_file

from qqonnx.compression.pipeline import compress
from qqonnx.config import Options
from qqonnx.evaluation import evaluate

GRID = """
results = "results.sqlite"
methods = ["kmeans", "uq"]
bits = [2, 4]
baselines = ["float32", "float16", "ort-dynamic-int8", "ort-qdq-tensor", "ort-qdq-channel"]
budgets = ["5 bits"]
[calibration]
data = "split"
samples = 8
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("swept")
    config = small_sweep(folder, GRID)
    output, errors = ended(begin(config, environment(folder), "--json", "--workers", "2"))
    assert not errors
    return folder, json.loads(output)


def test_every_run_is_there_and_whole(swept: tuple[Path, dict[str, object]]) -> None:
    folder, summary = swept
    rows = rows_of(folder / "results.sqlite")
    assert summary["failed"] == summary["untimed"] == []
    assert summary["done"] == summary["runs"] == len(rows) == 10
    for (method, _), row in rows.items():
        assert row["status"] == "done"
        assert (row["attempts"], row["error"], row["owner"]) == (1, None, None)
        assert row["samples"] == 32
        assert row["weights"] == 192 * 48 + 48 * 10
        assert row["bits_per_weight"] == 8 * row["file_bytes"] / row["weights"]
        assert 0 <= row["top1"] <= row["top5"] <= 1
        assert min(row["load_ratio"], row["latency_ratio"], row["wall_s"]) > 0
        assert row["peak_rss_bytes"] > 10_000_000
        assert "numpy" in json.loads(row["versions"])
        assert json.loads(row["hardware"])["cores"] >= 1
        # Only runs with codebooks have layers and histograms.
        assert (row["layers"] is None) == (method not in ("kmeans", "uq", "target"))
    # Models are deleted once they have been timed.
    assert not (folder / "results.sqlite.models").exists()


def test_results_are_those_of_convert_and_evaluate(
    swept: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    folder, _ = swept
    row = rows_of(folder / "results.sqlite")["kmeans", 2]
    model = compress(
        folder / "small.onnx", tmp_path / "k2.onnx", Options(method="kmeans", bits=2)
    ).path
    assert row["file_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    # The evaluation images exclude the eight calibration images: every (39 / 7)-th.
    import numpy as np

    arrays = np.load(folder / "images.npz")
    reserved = np.linspace(0, 39, 8).round().astype(int)
    evaluation = {name: np.delete(array, reserved, axis=0) for name, array in arrays.items()}
    np.savez(tmp_path / "evaluation.npz", **evaluation)
    result = evaluate([model], tmp_path / "evaluation.npz", baseline=folder / "small.onnx").rows[1]
    assert (row["top1"], row["top5"]) == (result.top1, result.top5)
    assert row["agreement"] == result.agreement
    assert row["kl"] == pytest.approx(result.kl, rel=1e-6)
    assert (row["file_bytes"], row["gzip_bytes"]) == (result.bytes, result.gzip_bytes)


def test_figures_stand_in_the_order_they_must(swept: tuple[Path, dict[str, object]]) -> None:
    folder, _ = swept
    rows = rows_of(folder / "results.sqlite")

    def column(name: str, *keys: tuple[str, float | None]) -> list[float]:
        return [rows[key][name] for key in keys]

    plain, half = ("float32", None), ("float16", None)
    int8, tensor, channel = (
        (name, 8) for name in ("ort-dynamic-int8", "ort-qdq-tensor", "ort-qdq-channel")
    )
    assert column("weight_error", plain) == [0]
    assert column("agreement", plain) == [1]
    errors = column("weight_error", half, channel, tensor, ("kmeans", 4), ("uq", 4), ("uq", 2))
    assert errors == sorted(errors)
    assert len(set(errors)) == len(errors)
    # Unsigned weights over the whole range are about as good as one scale per tensor.
    assert rows[int8]["weight_error"] == pytest.approx(rows[tensor]["weight_error"], rel=0.5)
    sizes = column("file_bytes", ("kmeans", 2), ("kmeans", 4), int8, half, plain)
    assert sizes == sorted(sizes)
    target = next(row for (method, _), row in rows.items() if method == "target")
    assert target["budget"] == "5 bits"
    # The graph and the float weights of so small a model are no part of the 5 bits.
    (layer,) = json.loads(target["layers"])
    assert 4 < 8 * layer["bytes"] / layer["weights"] <= 5
    assert "8 samples" in json.loads(target["options"])["calibrated with"]


def test_layers_and_histograms(swept: tuple[Path, dict[str, object]]) -> None:
    import numpy as np
    import onnx
    from onnx import numpy_helper

    folder, _ = swept
    row = rows_of(folder / "results.sqlite")["kmeans", 2]
    layers = json.loads(row["layers"])
    assert [layer["name"] for layer in layers] == ["first"]  # the other is too small
    assert layers[0]["shape"] == [192, 48]
    assert (layers[0]["bits"], layers[0]["levels"]) == (2, 4)
    assert row["entropy"] == pytest.approx(layers[0]["entropy"])
    (histogram,) = json.loads(row["histogram"])
    tensors = onnx.load(folder / "small.onnx").graph.initializer
    first = next(numpy_helper.to_array(tensor) for tensor in tensors if tensor.name == "first")
    assert sum(histogram["counts"]) == first.size
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert histogram["edges"][0] == pytest.approx(first.min(), rel=1e-4)
    # With k-means, each level is the mean of the values nearest to it.
    levels = np.array(histogram["levels"])
    nearest = np.abs(first.reshape(-1, 1) - levels).argmin(axis=1)
    means = [first.reshape(-1)[nearest == index].mean() for index in range(4)]
    np.testing.assert_allclose(levels, means, rtol=1e-2)


def test_again_does_nothing_and_more_does_only_that(tmp_path: Path) -> None:
    config = small_sweep(tmp_path, 'methods = ["uq"]\nbits = [2]\n')
    env = environment(tmp_path)
    ended(begin(config, env))
    before = rows_of(tmp_path / "sweep.sqlite")
    summary = json.loads(ended(begin(config, env, "--json"))[0])
    assert (summary["done"], summary["before"]) == (0, 2)
    assert rows_of(tmp_path / "sweep.sqlite") == before
    config.write_text(config.read_text().replace("bits = [2]", "bits = [2, 3]"))
    output, errors = ended(begin(config, env, "--export", "csv"))
    assert "2 of 3 runs, done before" in errors
    after = rows_of(tmp_path / "sweep.sqlite")
    assert set(after) - set(before) == {("uq", 3)}
    assert {key: after[key] for key in before} == before
    assert (tmp_path / "sweep.csv").read_text().count("\n") == 4


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="kill -9"),
        pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_killed_it_loses_the_run_in_progress_only(tmp_path: Path, number: int) -> None:
    config = small_sweep(tmp_path, 'methods = ["uq", "waits", "kmeans"]\nbits = [2]\ntimings = 0\n')
    env = environment(tmp_path)
    process = begin(config, env, "--workers", "1")
    worker = int(wait_for_file(tmp_path / "waits", process))
    process.send_signal(number)
    process.wait()
    before = rows_of(tmp_path / "sweep.sqlite")
    assert {key: row["status"] for key, row in before.items()} == {
        ("float32", None): "done",
        ("uq", 2): "done",
        ("waits", 2): "running",
    }
    _wait_until_gone(worker)
    summary = json.loads(ended(begin(config, env, "--json"))[0])
    assert (summary["before"], summary["done"]) == (2, 2), summary
    after = rows_of(tmp_path / "sweep.sqlite")
    assert {row["status"] for row in after.values()} == {"done"}
    for key in (("float32", None), ("uq", 2)):
        assert after[key] == before[key]
    assert [after[key]["attempts"] for key in (("waits", 2), ("kmeans", 2))] == [2, 1]


def test_a_worker_that_dies_costs_its_run_only(tmp_path: Path) -> None:
    text = 'methods = ["dies-twice", "dies", "uq"]\nbits = [2]\nbaselines = []\ntimings = 0\n'
    config = small_sweep(tmp_path, text)
    env = environment(tmp_path)
    output, errors = ended(begin(config, env, "--workers", "1", "--json"))
    rows = rows_of(tmp_path / "sweep.sqlite")
    assert {method: (row["status"], row["attempts"]) for (method, _), row in rows.items()} == {
        "dies-twice": ("done", 3),
        "dies": ("failed", 3),
        "uq": ("done", 1),
    }
    assert "its worker process died" in rows["dies", 2]["error"]
    assert errors.count("tried again: ") == 4
    assert len(json.loads(output)["failed"]) == 1
    # A failed run is reported, and repeated only on request.
    assert "not tried again" in ended(begin(config, env))[1]
    assert rows_of(tmp_path / "sweep.sqlite") == rows
    ended(begin(config, env, "--retry-failed"))
    assert rows_of(tmp_path / "sweep.sqlite")["dies", 2]["attempts"] == 6


def test_two_at_once_do_every_run_once(tmp_path: Path) -> None:
    config = small_sweep(tmp_path, 'methods = ["uq", "qq", "nf"]\nbits = [1, 2, 3, 4]\n')
    env = environment(tmp_path)
    both = [begin(config, env, "--workers", "1", "--json") for _ in range(2)]
    summaries = [json.loads(ended(process)[0]) for process in both]
    rows = rows_of(tmp_path / "sweep.sqlite")
    assert len(rows) == 13
    for row in rows.values():
        assert (row["status"], row["attempts"]) == ("done", 1)
        assert row["load_ratio"] is not None
    assert all(summary["failed"] == [] for summary in summaries)


def test_a_run_that_cannot_be_is_a_failed_row(tmp_path: Path) -> None:
    text = 'methods = ["uq"]\nbits = [4]\nbudgets = ["0.01 bits"]\n[calibration]\nsamples = 4\n'
    config = small_sweep(tmp_path, text)
    output, errors = ended(begin(config, environment(tmp_path)))
    rows = rows_of(tmp_path / "sweep.sqlite")
    assert rows["target", None]["status"] == "failed"
    assert rows["target", None]["attempts"] == 1
    assert rows["uq", 4]["status"] == "done"
    assert "failed: small, images.npz, target, 0.01 bits: " in errors
    assert "1 failed" in output


def _wait_until_gone(pid: int) -> None:
    import time

    for _ in range(300):
        # A zombie process counts as dead.
        status = Path(f"/proc/{pid}/status")
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if status.exists() and "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived the sweep")

"""Sweeps on a Dask cluster: a real scheduler and worker processes, one of them killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeping import begin, ended, environment, rows_of, small_sweep, wait_for_file

pytest.importorskip("distributed")

WORKERS = 3

SAME = ("file_sha256", "file_bytes", "top1", "top5", "agreement", "kl", "weight_error", "layers")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Start a scheduler and workers on loopback; yield its address and the environment."""
    env = environment(tmp_path)
    # Workers have the package and the data, but not the model, which is sent to them.
    address_file = tmp_path / "scheduler.json"
    meeting = ("--scheduler-file", str(address_file), "--no-dashboard")
    common = {"env": env, "cwd": tmp_path, "stdout": subprocess.DEVNULL}
    with (tmp_path / "cluster.log").open("w") as log:
        scheduler = subprocess.Popen(
            _command("scheduler", "--host", "127.0.0.1", "--port", "0", *meeting),
            stderr=log,
            **common,
        )
        started = [scheduler]
        try:
            wait_for_file(address_file, scheduler)
            started += [
                subprocess.Popen(
                    _command("worker", "--nthreads", "1", "--no-nanny", *meeting),
                    stderr=log,
                    **common,
                )
                for _ in range(WORKERS)
            ]
            yield json.loads(address_file.read_text())["address"], env
        finally:
            for process in started:
                process.kill()
                process.wait()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dask", *arguments]


def test_a_killed_worker_costs_no_run_and_results_are_those_of_one_machine(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, env = cluster
    text = (
        'methods = ["waits", "dies-twice", "uq"]\nbits = [2]\n'
        'budgets = ["5 bits"]\nbaselines = ["float32", "ort-qdq-channel"]\n'
        '[calibration]\ndata = "split"\nsamples = 8\n'
    )
    config = small_sweep(tmp_path, f'results = "cluster.sqlite"\n{text}')
    process = begin(config, env, "--scheduler", address, "--json")
    # "dies-twice" kills two workers and this test a third, so dead workers are replaced.
    worker = int(wait_for_file(tmp_path / "waits", process).split()[0])
    while len(_rows(tmp_path)) < 3:
        time.sleep(0.1)
    os.kill(worker, 9)
    more = [
        subprocess.Popen(
            _command("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"),
            env=env,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    try:
        output, errors = ended(process)
    finally:
        for extra in more:
            extra.kill()
            extra.wait()
    summary = json.loads(output)
    assert summary["failed"] == summary["untimed"] == []
    found = rows_of(tmp_path / "cluster.sqlite")
    assert {row["status"] for row in found.values()} == {"done"}
    attempts = {key: row["attempts"] for key, row in found.items()}
    assert sum(attempts.values()) == len(found) + 3, (attempts, errors)
    assert len({row["worker"] for row in found.values()}) >= 2
    assert all(row["worker"].startswith("tcp://127.0.0.1:") for row in found.values())
    assert all(row["load_ratio"] is not None for row in found.values())
    # Repeat it on this machine alone, where the methods no longer fail.
    config.write_text(f'models = ["small.onnx"]\ndatasets = ["images.npz"]\n{text}')
    ended(begin(config, env))
    local = rows_of(tmp_path / "sweep.sqlite")
    assert {row["key"] for row in local.values()} == {row["key"] for row in found.values()}
    for key, row in found.items():
        assert {name: row[name] for name in SAME} == {name: local[key][name] for name in SAME}


def _rows(folder: Path) -> dict[object, object]:
    path = folder / "cluster.sqlite"
    return rows_of(path) if path.exists() else {}


def test_no_scheduler_is_one_line(tmp_path: Path) -> None:
    config = small_sweep(tmp_path, 'methods = ["uq"]\n')
    process = begin(config, environment(tmp_path), "--scheduler", "nowhere://x")
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "scheduler: nowhere://x" in errors

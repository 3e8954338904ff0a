"""The results file: claims are exclusive, leases expire, other files are refused, exports agree."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.errors import QqonnxError
from qqonnx.sweep import leases
from qqonnx.sweep.export import EXPORTED, JSON_COLUMNS, export_results
from qqonnx.sweep.store import COLUMNS, SCHEMA_VERSION, open_store, read_rows


def take(path: Path, keys: list[str], start: object, taken: object) -> None:
    start.wait()
    store = open_store(path)
    owner = leases.this_process()
    for key in keys:
        if leases.claim(store, {"key": key}, owner) == "claimed":
            taken.put(key)
            leases.finish(store, key, owner, {"status": "done"})
    taken.put(None)


def test_processes_at_once_take_every_run_once(tmp_path: Path) -> None:
    keys = [f"run {number}" for number in range(40)]
    context = multiprocessing.get_context("spawn")
    start, taken = context.Barrier(3), context.Queue()
    path = tmp_path / "results.sqlite"  # which each of them may be the one to make
    processes = [
        context.Process(target=take, args=(path, keys, start, taken), daemon=True) for _ in range(3)
    ]
    for process in processes:
        process.start()
    found: list[str] = []
    for _ in range(3):
        while (key := taken.get(timeout=120)) is not None:
            found.append(key)
    assert sorted(found) == sorted(keys)
    rows = read_rows(path)
    assert [(row["status"], row["attempts"]) for row in rows] == [("done", 1)] * 40


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from("cfre")), max_size=30)
)
def test_a_run_has_one_owner_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str]]
) -> None:
    """Compare claims, results, releases and expiring leases with a model of the owners."""
    store = open_store(tmp_path_factory.mktemp("store") / "results.sqlite")
    owners = [leases.this_process() for _ in range(3)]
    held: dict[str, int] = {}
    done: set[str] = set()
    for who, number, step in steps:
        key, owner = f"run {number}", owners[who]
        if step == "c":
            state = leases.claim(store, {"key": key}, owner)
            expected = "done" if key in done else "running" if key in held else "claimed"
            assert state == expected
            if state == "claimed":
                held[key] = who
        elif step == "f":
            ended = leases.finish(store, key, owner, {"status": "done", "top1": who / 4})
            assert ended == (held.get(key) == who)
            if ended:
                del held[key]
                done.add(key)
        elif step == "r":
            leases.release(store, owner)
            held = {key: holder for key, holder in held.items() if holder != who}
        else:  # the lease ends
            store.execute("UPDATE runs SET lease = 0 WHERE owner = ?", (str(owner),))
            held = {key: holder for key, holder in held.items() if holder != who}
            # After its lease has expired, an owner may find that the run has a new owner.
            store.execute("UPDATE runs SET owner = 'gone:0:0' WHERE lease = 0")
    statuses = {row["key"]: row["status"] for row in store.execute("SELECT * FROM runs")}
    assert {key for key, status in statuses.items() if status == "done"} == done
    store.close()


@pytest.mark.skipif(os.name != "posix", reason="looks for processes")
def test_a_dead_owner_on_this_machine_holds_nothing_one_elsewhere_does(tmp_path: Path) -> None:
    store = open_store(tmp_path / "results.sqlite")
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    dead = replace(leases.this_process(), pid=process.pid)
    elsewhere = replace(dead, host="elsewhere")
    assert leases.claim(store, {"key": "a"}, dead) == "claimed"
    assert leases.claim(store, {"key": "b"}, elsewhere) == "claimed"
    assert leases.claim(store, {"key": "a"}, leases.this_process()) == "claimed"
    assert leases.claim(store, {"key": "b"}, leases.this_process()) == "running"
    assert {row["key"]: row["attempts"] for row in read_rows(tmp_path / "results.sqlite")} == {
        "a": 2,
        "b": 1,
    }


def test_timing_is_alone_on_the_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "results.sqlite")
    one, other = leases.this_process(), leases.this_process()
    for key in ("a", "b"):
        leases.claim(store, {"key": key}, one)
    leases.finish(store, "a", one, {"status": "done"})
    assert leases.claim_timing(store, "a", other) == "busy"
    leases.finish(store, "b", one, {"status": "failed"})
    assert leases.claim_timing(store, "a", other) == "claimed"
    assert leases.claim_timing(store, "a", one) == "busy"
    assert leases.claim(store, {"key": "c"}, one) == "timing"
    leases.finish(store, "a", other, {"status": "done", "load_ratio": 2.0})
    assert leases.claim_timing(store, "a", one) == "done"
    assert leases.claim(store, {"key": "c"}, one) == "claimed"


def test_a_failed_run_is_not_missing_until_it_is_forgotten(tmp_path: Path) -> None:
    store, owner = open_store(tmp_path / "results.sqlite"), leases.this_process()
    leases.claim(store, {"key": "a"}, owner)
    leases.finish(store, "a", owner, {"status": "failed", "error": "x"})
    assert leases.claim(store, {"key": "a"}, owner) == "failed"
    leases.reset(store, "a")
    assert leases.claim(store, {"key": "a"}, owner) == "claimed"
    (row,) = read_rows(tmp_path / "results.sqlite")
    assert (row["error"], row["attempts"]) == (None, 2)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    open_store(path).close()
    later = sqlite3.connect(path)
    later.execute("UPDATE meta SET value = '99'")
    later.commit()
    later.close()
    for reader in (open_store, read_rows):
        with pytest.raises(QqonnxError, match=f"version 99; this qqonnx reads {SCHEMA_VERSION}"):
            reader(path)
    foreign = tmp_path / "foreign.sqlite"
    other = sqlite3.connect(foreign)
    other.execute("CREATE TABLE things (name TEXT)")
    other.commit()
    other.close()
    text = tmp_path / "text.sqlite"
    text.write_text("no database " * 100)
    for wrong in (foreign, text):
        content = wrong.read_bytes()
        for reader in (open_store, read_rows):
            with pytest.raises(QqonnxError, match=re.escape(f"{wrong}: ")):
                reader(wrong)
        assert wrong.read_bytes() == content
    with pytest.raises(QqonnxError, match="no such results file"):
        read_rows(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "results.sqlite"
    store, owner = open_store(path), leases.this_process()
    for number in range(3):
        run = {"key": f"run {number}", "method": 'odd, "name"\n', "bits": number + 0.5}
        leases.claim(store, run, owner)
        row = {"status": "done", "top1": 1 / 3, "file_bytes": 10**12, "layers": '[{"name": "ü"}]'}
        leases.finish(store, run["key"], owner, row)
    store.close()
    return path


def test_csv_and_json_hold_what_the_rows_hold(filled: Path) -> None:
    rows = read_rows(filled)
    with export_results(filled, "csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == EXPORTED
    for row, line in zip(rows, read, strict=True):
        assert line == {name: "" if row[name] is None else str(row[name]) for name in EXPORTED}
    exported = json.loads(export_results(filled, "json").read_text("utf-8"))
    for row, entry in zip(rows, exported, strict=True):
        for name in EXPORTED:
            is_json = name in JSON_COLUMNS and row[name] is not None
            assert entry[name] == (json.loads(row[name]) if is_json else row[name])


def test_parquet_holds_what_the_rows_hold(filled: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{name: row[name] for name in EXPORTED} for row in read_rows(filled)]
    table = parquet.read_table(export_results(filled, "parquet"))
    assert table.to_pylist() == rows
    assert str(table.schema.field("bits").type) == "double"
    assert str(table.schema.field("file_bytes").type) == "int64"


def test_parquet_without_its_package_is_one_line_and_no_file(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(QqonnxError, match=r"qqonnx\[parquet\]"):
        export_results(filled, "parquet")
    assert [file.name for file in filled.parent.glob("*.parquet")] == []
    assert [file.name for file in filled.parent.glob(".qqonnx-*")] == []


def test_columns_that_reports_read_are_there() -> None:
    assert {
        "key", "status", "error", "attempts", "worker", "model", "model_sha256", "dataset",
        "samples", "method", "baseline", "bits", "budget", "granularity", "options", "versions",
        "hardware", "started", "wall_s", "peak_rss_bytes", "weights", "bits_per_weight",
        "file_bytes", "file_sha256", "gzip_bytes", "brotli_bytes", "top1", "top5", "agreement",
        "kl", "weight_error", "entropy", "load_ratio", "latency_ratio", "layers", "histogram",
    } <= set(COLUMNS)  # fmt: skip

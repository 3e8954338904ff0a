"""A whole sweep: what is missing, done by workers, recorded, then timed."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.parallel import available_cores
from qqonnx.sweep import store as results
from qqonnx.sweep.cluster import Cluster
from qqonnx.sweep.grid import model_source, runs_of
from qqonnx.sweep.local import LocalPool
from qqonnx.sweep.perform import RunError
from qqonnx.sweep.work import POLL_SECONDS, Place, work
from qqonnx.sweep.zoo_models import exported

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qqonnx.sweep.config import SweepConfig
    from qqonnx.sweep.grid import Run
    from qqonnx.sweep.work import Engine, Events, Progress, Say


@dataclass(frozen=True)
class Summary:
    """What a sweep did.

    Attributes:
        results: the results file.
        runs: runs that the configuration asks for.
        before: those that were done before.
        done: those that this sweep did.
        failed: labels of those that failed, now or before, and why.
        skipped: what was left out, and why.
        untimed: labels of those whose times could not be measured, and why.
    """

    results: Path
    runs: int
    before: int
    done: int
    failed: tuple[tuple[str, str], ...]
    skipped: tuple[str, ...]
    untimed: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary for JSON."""
        return asdict(self)


def sweep(
    config: SweepConfig,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    again: bool = False,
    say: Say = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Do the runs that are missing in the results file.

    Args:
        config: what to run.
        workers: processes on this machine; by default as many as keep workers times threads
            within its cores, and never more.
        scheduler: address of a Dask scheduler whose workers are used instead.
        again: try runs again that failed before.
        say: called with a line for whatever is skipped or goes wrong.
        progress: called with what is going on, the amount just done and the amount in all.

    Raises:
        QqonnxError: something that the configuration names is not there or does not work, or
            the results cannot be written.
    """
    try:
        return _sweep(config, workers, scheduler, again, say, progress)
    except sqlite3.Error as error:
        raise QqonnxError(f"{config.results}: {error}") from error


def _sweep(
    config: SweepConfig,
    workers: int | None,
    scheduler: str | None,
    again: bool,
    say: Say,
    progress: Progress,
) -> Summary:
    events: Events = SimpleQueue()
    models = [model_source(exported(entry, config.weights)) for entry in config.models]
    owner = results.this_process()
    models_folder = config.results.with_name(f"{config.results.name}.models")
    most = max(available_cores() // config.threads, 1)
    with closing(results.open_store(config.results)) as store, _living(config.results, owner):
        place = Place(store, owner, models_folder)
        engine: Engine
        if scheduler is not None:
            engine = Cluster(scheduler, lambda key, worker: events.put(("began", key, worker)))
        else:
            engine = LocalPool(min(workers or most, most), config.threads)
        try:
            runs, skipped = runs_of(config, models, engine.installed)
            for line in skipped:
                say(f"skipped: {line}")
            todo, before = _missing(place, runs, config, again, say)
            if before:
                say(f"skipped: {before} of {len(runs)} runs, done before")
            keep = config.timings > 0
            work(place, engine, todo, events, keep=keep, say=say, progress=progress)
        finally:
            engine.close()
            results.release(store, owner)
        untimed = _time(place, runs, config, say, progress) if config.timings else []
        rows = _rows(store)
    if models_folder.is_dir() and not any(models_folder.iterdir()):
        models_folder.rmdir()
    failed = [(r.label, rows[r.key]["error"]) for r in runs if rows[r.key]["status"] == "failed"]
    done = sum(rows[run.key]["status"] == "done" for run in runs)
    return Summary(
        results=config.results,
        runs=len(runs),
        before=before,
        done=done - before,
        failed=tuple(failed),
        skipped=tuple(skipped),
        untimed=tuple(untimed),
    )


def _missing(
    place: Place, runs: Sequence[Run], config: SweepConfig, again: bool, say: Say
) -> tuple[list[Run], int]:
    """Return the runs to do, and how many are done."""
    rows = _rows(place.store)
    todo, before = [], 0
    for run in runs:
        row = rows.get(run.key)
        status = row["status"] if row is not None else "running"
        if status == "done":
            assert row is not None
            timed = row["load_ratio"] is not None
            # A model that was to be timed and is gone has to be made again.
            if timed or not config.timings or place.model(run).is_file():
                before += 1
                continue
            results.forget(place.store, run.key)
        elif status == "failed" and not again:
            assert row is not None
            say(f"skipped: {run.label}: failed before, and not tried again: {row['error']}")
            continue
        elif status == "failed":
            results.forget(place.store, run.key)
        todo.append(run)
    return todo, before


def _time(
    place: Place, runs: Sequence[Run], config: SweepConfig, say: Say, progress: Progress
) -> list[tuple[str, str]]:
    """Measure load time and latency of the models that were made, one after another.

    Each waits until no run of this file is in progress: what else computes would be measured too.
    """
    rows = _rows(place.store)
    todo = [
        run
        for run in runs
        if rows[run.key]["status"] == "done"
        and rows[run.key]["load_ratio"] is None
        and place.model(run).is_file()
    ]
    untimed = []
    alone = True
    progress("timing", 0, len(todo))
    with closing(LocalPool(1, config.threads)) as pool:
        for run in todo:
            while (state := results.claim_timing(place.store, run.key, place.owner)) == "busy":
                if alone:
                    say("timing waits until another sweep on this file has no run in progress")
                    alone = False
                time.sleep(POLL_SECONDS)
            progress("timing", 1, len(todo))
            if state == "done":
                continue
            try:
                times = pool.submit_timing(run, place.model(run), config.timings).result()
                row = {"status": "done", **times}
                results.finish(place.store, run.key, place.owner, row)
                place.drop(run)
            except RunError as error:
                say(f"not timed: {run.label}: {error}")
                untimed.append((run.label, str(error)))
            finally:
                results.release(place.store, place.owner)
    return untimed


def _rows(store: sqlite3.Connection) -> dict[str, sqlite3.Row]:
    query = "SELECT key, status, error, load_ratio FROM runs"
    return {row["key"]: row for row in store.execute(query)}


@contextmanager
def _living(path: Path, owner: results.Owner) -> Iterator[None]:
    """Give signs of life while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        with closing(results.open_store(path)) as store:
            while not ended.wait(results.LEASE_SECONDS / 4):
                results.renew(store, owner)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

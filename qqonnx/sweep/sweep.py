"""A sweep: execute the missing runs, record their results, then time the models."""

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
from qqonnx.sweep import leases
from qqonnx.sweep.cluster import Cluster
from qqonnx.sweep.execute import RunError
from qqonnx.sweep.grid import runs_of
from qqonnx.sweep.local import LocalPool
from qqonnx.sweep.scheduler import POLL_SECONDS, Workspace, execute_all
from qqonnx.sweep.sources import model_source
from qqonnx.sweep.store import open_store
from qqonnx.sweep.zoo_models import model_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qqonnx.sweep.config import SweepConfig
    from qqonnx.sweep.grid import Run
    from qqonnx.sweep.scheduler import Events, Executor, Log, Progress


@dataclass(frozen=True)
class Summary:
    """Summary of a sweep.

    Attributes:
        results: the results file.
        runs: number of runs in the grid.
        before: number of runs that were done before.
        done: number of runs that were done now, here or in another sweep.
        failed: label and error of each failed run, now or before.
        skipped: messages about combinations that were left out.
        untimed: label and error of each run whose timing failed.
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
    retry_failed: bool = False,
    log: Log = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Execute the runs that are missing in the results file.

    Args:
        config: the grid.
        workers: number of worker processes on this machine; at most, and by default, the number
            of available cores divided by the threads of one run.
        scheduler: address of a Dask scheduler whose workers are used instead.
        retry_failed: whether runs that failed before are tried again.
        log: called with a message for everything that is skipped or fails.
        progress: called with the current activity, the amount just done, and the total amount.

    Raises:
        QqonnxError: something that the configuration names does not exist or does not work, or
            the results cannot be written.
    """
    events: Events = SimpleQueue()
    models = [model_source(model_file(entry, config.weights)) for entry in config.models]
    owner = leases.this_process()
    models_folder = config.results.with_name(f"{config.results.name}.models")
    most = max(available_cores() // config.threads, 1)
    with (
        _database_errors(config.results),
        closing(open_store(config.results)) as store,
        _renewed_leases(config.results, owner),
    ):
        workspace = Workspace(store, owner, models_folder)
        executor: Executor
        if scheduler is not None:
            executor = Cluster(scheduler, lambda key, worker: events.put(("started", key, worker)))
        else:
            executor = LocalPool(min(workers or most, most), config.threads)
        try:
            runs, skipped = runs_of(config, models, executor.installed)
            for message in skipped:
                log(f"skipped: {message}")
            missing, before = _missing(workspace, runs, config, retry_failed, log)
            if before:
                log(f"skipped: {before} of {len(runs)} runs, done before")
            execute_all(
                workspace,
                executor,
                missing,
                events,
                keep_models=config.timings > 0,
                log=log,
                progress=progress,
            )
        finally:
            executor.close()
            leases.release(store, owner)
        untimed = _time(workspace, runs, config, log, progress) if config.timings else []
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
    workspace: Workspace, runs: Sequence[Run], config: SweepConfig, retry_failed: bool, log: Log
) -> tuple[list[Run], int]:
    """Return the runs to execute, and the number of runs that are done."""
    rows = _rows(workspace.store)
    missing, done = [], 0
    for run in runs:
        row = rows.get(run.key)
        if row is not None and row["status"] == "done":
            timed = row["load_ratio"] is not None
            if timed or not config.timings or workspace.model(run).is_file():
                done += 1
                continue
            # The model has to be timed, but its file is gone.
            leases.reset(workspace.store, run.key)
        elif row is not None and row["status"] == "failed":
            if not retry_failed:
                log(f"skipped: {run.label}: failed before, and not tried again: {row['error']}")
                continue
            leases.reset(workspace.store, run.key)
        missing.append(run)
    return missing, done


def _time(
    workspace: Workspace, runs: Sequence[Run], config: SweepConfig, log: Log, progress: Progress
) -> list[tuple[str, str]]:
    """Measure load time and latency of the models one by one; return labels and errors.

    Timing waits until no run of the results file is in progress, because it would be slower then.
    """
    rows = _rows(workspace.store)
    todo = [
        run
        for run in runs
        if rows[run.key]["status"] == "done"
        and rows[run.key]["load_ratio"] is None
        and workspace.model(run).is_file()
    ]
    store, owner = workspace.store, workspace.owner
    untimed = []
    logged = False
    progress("timing", 0, len(todo))
    with closing(LocalPool(1, config.threads)) as pool:
        for run in todo:
            while (state := leases.claim_timing(store, run.key, owner)) == "busy":
                if not logged:
                    log("timing waits until another sweep on this file has no run in progress")
                    logged = True
                time.sleep(POLL_SECONDS)
            progress("timing", 1, len(todo))
            if state == "done":
                continue
            try:
                times = pool.submit_timing(run, workspace.model(run), config.timings).result()
                leases.finish(store, run.key, owner, {"status": "done", **times})
                workspace.delete_model(run)
            except RunError as error:
                log(f"not timed: {run.label}: {error}")
                untimed.append((run.label, str(error)))
            finally:
                leases.release(store, owner)
    return untimed


def _rows(store: sqlite3.Connection) -> dict[str, sqlite3.Row]:
    query = "SELECT key, status, error, load_ratio FROM runs"
    return {row["key"]: row for row in store.execute(query)}


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise QqonnxError(f"{path}: {error}") from error


@contextmanager
def _renewed_leases(path: Path, owner: leases.Owner) -> Iterator[None]:
    """Renew the owner's leases from another thread while the block runs."""
    ended = threading.Event()

    def renew() -> None:
        with closing(open_store(path)) as store:
            while not ended.wait(leases.LEASE_SECONDS / 4):
                leases.renew(store, owner)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

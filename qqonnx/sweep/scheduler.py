"""Execution of runs: as many at once as the executor can do, each recorded when it ends."""

from __future__ import annotations

import shutil
from collections import Counter, deque
from dataclasses import dataclass, field
from queue import Empty
from typing import TYPE_CHECKING, Any, Protocol

from qqonnx.errors import QqonnxError
from qqonnx.sweep import leases
from qqonnx.sweep.execute import MODEL
from qqonnx.sweep.grid import TARGET, Run

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from queue import SimpleQueue

    Log = Callable[[str], None]
    Progress = Callable[[str, float, float], None]
    Events = SimpleQueue[tuple[str, str, Any]]

ATTEMPTS = 3
"""Largest number of attempts at a run whose worker dies or whose error is not a `QqonnxError`."""

POLL_SECONDS = 0.5
"""Interval of checks whether another sweep has finished what this one waits for."""

_TARGET_COST = 30
"""Approximate duration of a calibrated run, in runs of a codebook method."""


class Executor(Protocol):
    """Workers that execute runs."""

    def capacity(self) -> int:
        """Return the number of runs that are executed at once."""

    def installed(self, package: str) -> bool:
        """Return whether the workers have a package."""

    def submit(self, run: Run, target: Path) -> Future[dict[str, Any]]:
        """Start a run that writes its model to `target`; the future gives result columns."""

    def close(self) -> None:
        """Stop the runs in progress."""


@dataclass(frozen=True)
class Workspace:
    """Results and files of a sweep.

    Attributes:
        store: the results file.
        owner: this process.
        models: folder of the models that have not been timed yet.
    """

    store: sqlite3.Connection
    owner: leases.Owner
    models: Path

    def model(self, run: Run) -> Path:
        """Return the path of a run's model."""
        return self.models / run.key / MODEL

    def delete_model(self, run: Run) -> None:
        """Delete the model of a run."""
        shutil.rmtree(self.model(run).parent, ignore_errors=True)


@dataclass
class _State:
    """Runs in progress.

    Attributes:
        active: runs in progress by key.
        failures: number of failures of each run.
        starts: how often the executor has started each run since it was submitted.
    """

    active: dict[str, Run] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)


def execute_all(
    workspace: Workspace,
    executor: Executor,
    runs: Sequence[Run],
    events: Events,
    *,
    keep_models: bool,
    log: Log,
    progress: Progress,
) -> None:
    """Execute runs until each is done or failed, here or in another sweep.

    Args:
        workspace: results and files.
        executor: the workers.
        runs: the runs.
        events: queue of ("started", key, worker), from executors that report it; this function
            adds ("ended", key, future).
        keep_models: whether models are kept for timing.
        log: called with a message for each problem.
        progress: called with "runs", the cost of a run that ended, and the total cost.
    """
    total = sum(map(_cost, runs))
    waiting, state = deque(runs), _State()
    progress("runs", 0, total)
    while waiting or state.active:
        # Runs that another sweep has in progress stay in the queue, because that sweep may die.
        for _ in range(len(waiting)):
            if len(state.active) >= executor.capacity():
                break
            run = waiting.popleft()
            status = leases.claim(workspace.store, run.row(), workspace.owner)
            if status == "claimed":
                _submit(workspace, executor, run, events, state)
            elif status in ("running", "timing"):
                waiting.append(run)
            else:
                progress("runs", _cost(run), total)
        try:
            kind, key, content = events.get(timeout=POLL_SECONDS)
        except Empty:
            continue
        if key not in state.active:
            continue
        run = state.active[key]
        if kind == "started":
            state.starts[key] += 1
            if state.starts[key] > 1:
                log(f"begun again, as its worker was lost: {run.label}")
                leases.record_attempt(workspace.store, key, workspace.owner)
            leases.record_worker(workspace.store, key, workspace.owner, content)
            continue
        del state.active[key]
        if _should_retry(content, run, state):
            log(f"tried again: {run.label}: {content.exception()}")
            leases.record_attempt(workspace.store, key, workspace.owner)
            _submit(workspace, executor, run, events, state)
        else:
            _record(workspace, run, content, keep_models, log)
            progress("runs", _cost(run), total)


def _submit(
    workspace: Workspace, executor: Executor, run: Run, events: Events, state: _State
) -> None:
    workspace.delete_model(run)
    target = workspace.model(run)
    target.parent.mkdir(parents=True)
    state.active[run.key] = run
    state.starts[run.key] = 0
    future = executor.submit(run, target)
    future.add_done_callback(lambda done: events.put(("ended", run.key, done)))


def _should_retry(ended: Future[dict[str, Any]], run: Run, state: _State) -> bool:
    error = ended.exception()
    if error is None or isinstance(error, QqonnxError):
        return False
    # A cluster restarts lost runs by itself.
    state.failures[run.key] += max(state.starts[run.key], 1)
    return state.failures[run.key] < ATTEMPTS


def _record(
    workspace: Workspace, run: Run, ended: Future[dict[str, Any]], keep_models: bool, log: Log
) -> None:
    error = ended.exception()
    if error is None:
        row = ended.result()
    else:
        row = {"status": "failed", "error": str(error)}
        log(f"failed: {run.label}: {error}")
    if not leases.finish(workspace.store, run.key, workspace.owner, row):
        log(f"not recorded, as another sweep has taken it: {run.label}")
    if error is not None or not keep_models or row.get("load_ratio") is not None:
        workspace.delete_model(run)


def _cost(run: Run) -> float:
    factor = _TARGET_COST if run.method == TARGET else 1
    return factor * run.model.path.stat().st_size

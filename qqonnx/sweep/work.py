"""Runs, as many at once as an engine can do, each recorded when it ends."""

from __future__ import annotations

import shutil
from collections import Counter, deque
from dataclasses import dataclass, field
from queue import Empty
from typing import TYPE_CHECKING, Any, Protocol

from qqonnx.errors import QqonnxError
from qqonnx.sweep import store as results
from qqonnx.sweep.grid import TARGET, Run
from qqonnx.sweep.perform import MODEL

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from queue import SimpleQueue

    Say = Callable[[str], None]
    Progress = Callable[[str, float, float], None]
    Events = SimpleQueue[tuple[str, str, Any]]

ATTEMPTS = 3
"""How often a run is begun whose worker dies, or that fails for no reason qqonnx knows."""

POLL_SECONDS = 0.5
"""How often it is looked whether another sweep has ended what this one waits for."""

_TARGET_COST = 30
"""About how many runs by a codebook method a calibrated run takes as long as."""


class Engine(Protocol):
    """Where runs are done."""

    def capacity(self) -> int:
        """Return how many runs are done at once."""

    def installed(self, package: str) -> bool:
        """Return whether the workers have a package."""

    def submit(self, run: Run, target: Path) -> Future[dict[str, Any]]:
        """Do a run: the model goes to `target`, the results' columns into the future."""

    def close(self) -> None:
        """Give up what is in progress."""


@dataclass(frozen=True)
class Place:
    """Where a sweep works."""

    store: sqlite3.Connection
    owner: results.Owner
    models: Path

    def model(self, run: Run) -> Path:
        """Return where the model of a run is kept until it has been timed."""
        return self.models / run.key / MODEL

    def drop(self, run: Run) -> None:
        """Delete the model of a run."""
        shutil.rmtree(self.model(run).parent, ignore_errors=True)


@dataclass
class _State:
    """Where the work stands.

    Attributes:
        active: runs in progress, by key.
        failures: how often each failed so far.
        begun: how often a cluster has begun each since it was last asked to.
    """

    active: dict[str, Run] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    begun: Counter[str] = field(default_factory=Counter)


def work(
    place: Place,
    engine: Engine,
    todo: Sequence[Run],
    events: Events,
    *,
    keep: bool,
    say: Say,
    progress: Progress,
) -> None:
    """Do runs until each is done, failed, or so by another sweep.

    Args:
        place: where.
        engine: what does them.
        todo: the runs.
        events: ("began", key, worker) of an engine that tells; ends of runs are put there, too.
        keep: whether models stay, for timing.
        say: called with a line for whatever goes wrong.
        progress: called with "runs", the cost of a run that ended, and that of all.
    """
    total = sum(map(_cost, todo))
    waiting, state = deque(todo), _State()
    progress("runs", 0, total)
    while waiting or state.active:
        # Runs that another sweep has in progress are looked at again, as it may die.
        for _ in range(len(waiting)):
            if len(state.active) >= engine.capacity():
                break
            run = waiting.popleft()
            claimed = results.claim(place.store, run.row(), place.owner)
            if claimed == "taken":
                _start(place, engine, run, events, state)
            elif claimed in ("running", "timing"):
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
        if kind == "began":
            state.begun[key] += 1
            if state.begun[key] > 1:
                say(f"begun again, as its worker was lost: {run.label}")
                results.begun_again(place.store, key, place.owner)
            results.placed(place.store, key, place.owner, content)
            continue
        del state.active[key]
        if _is_to_be_tried_again(content, run, state):
            say(f"tried again: {run.label}: {content.exception()}")
            results.begun_again(place.store, key, place.owner)
            _start(place, engine, run, events, state)
        else:
            _record(place, run, content, keep, say)
            progress("runs", _cost(run), total)


def _start(place: Place, engine: Engine, run: Run, events: Events, state: _State) -> None:
    place.drop(run)
    target = place.model(run)
    target.parent.mkdir(parents=True)
    state.active[run.key] = run
    state.begun[run.key] = 0
    future = engine.submit(run, target)
    future.add_done_callback(lambda done: events.put(("ended", run.key, done)))


def _is_to_be_tried_again(ended: Future[dict[str, Any]], run: Run, state: _State) -> bool:
    error = ended.exception()
    if error is None or isinstance(error, QqonnxError):
        return False
    # A cluster may have begun it several times by itself.
    state.failures[run.key] += max(state.begun[run.key], 1)
    return state.failures[run.key] < ATTEMPTS


def _record(place: Place, run: Run, ended: Future[dict[str, Any]], keep: bool, say: Say) -> None:
    error = ended.exception()
    if error is None:
        row = ended.result()
    else:
        row = {"status": "failed", "error": str(error)}
        say(f"failed: {run.label}: {error}")
    if not results.finish(place.store, run.key, place.owner, row):
        say(f"not recorded, as another sweep has taken it: {run.label}")
    if error is not None or not keep or row.get("load_ratio") is not None:
        place.drop(run)


def _cost(run: Run) -> float:
    factor = _TARGET_COST if run.method == TARGET else 1
    return factor * run.model.path.stat().st_size

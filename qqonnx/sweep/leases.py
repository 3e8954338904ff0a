"""Which process executes a run of a sweep: processes claim runs for a time, in the results file."""

from __future__ import annotations

import os
import platform
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.sweep.store import COLUMNS, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

LEASE_SECONDS = 60.0
"""How long a process owns a run without renewing its lease."""


@dataclass(frozen=True)
class Owner:
    """A process that executes a sweep.

    Attributes:
        host: name of the machine.
        pid: process id.
        token: distinguishes the process from later ones with the same id.
    """

    host: str
    pid: int
    token: str

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.token}"


def this_process() -> Owner:
    """Return a new owner for this process."""
    return Owner(platform.node(), os.getpid(), uuid.uuid4().hex)


def claim(store: sqlite3.Connection, run: Mapping[str, Any], owner: Owner) -> str:
    """Claim a missing run for `owner`, in one transaction.

    A failed run is not missing until `reset` is called.

    Args:
        store: the results.
        run: the columns that identify the run, including its key.
        owner: the process that claims the run.

    Returns:
        "claimed"; the run's status, "done", "failed" or "running", if it is not missing; or
        "timing" if a process is measuring times, so that no run may start.
    """
    with transaction(store):
        if _is_timing(store):
            return "timing"
        row = store.execute("SELECT * FROM runs WHERE key = ?", (run["key"],)).fetchone()
        if row is not None and (row["status"] != "running" or _is_held(row)):
            return str(row["status"])
        attempts = (row["attempts"] if row is not None else 0) + 1
        values = {
            **dict.fromkeys(COLUMNS),
            **run,
            "status": "running",
            "attempts": attempts,
            "worker": f"{owner.host}:{owner.pid}",
            "owner": str(owner),
            "lease": time.time() + LEASE_SECONDS,
        }
        parameters = ", ".join(f":{name}" for name in COLUMNS)
        names = ", ".join(COLUMNS)
        # Unlike "INSERT OR REPLACE", this keeps the row's position.
        store.execute(
            f"INSERT INTO runs ({names}) VALUES ({parameters}) ON CONFLICT (key) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS),
            values,
        )
    return "claimed"


def record_attempt(store: sqlite3.Connection, key: str, owner: Owner) -> None:
    """Count another attempt at a run that `owner` has claimed."""
    store.execute(
        "UPDATE runs SET attempts = attempts + 1 WHERE key = ? AND owner = ?", (key, str(owner))
    )


def record_worker(store: sqlite3.Connection, key: str, owner: Owner, worker: str) -> None:
    """Record the worker of a run that `owner` has claimed."""
    store.execute(
        "UPDATE runs SET worker = ? WHERE key = ? AND owner = ?", (worker, key, str(owner))
    )


def finish(store: sqlite3.Connection, key: str, owner: Owner, result: Mapping[str, Any]) -> bool:
    """Record the result of a run and release it.

    Args:
        store: the results.
        key: the run's key.
        owner: the process that has claimed the run.
        result: columns and their values, including "status".

    Returns:
        False if another process has claimed the run meanwhile; nothing is recorded then.
    """
    values = {**result, "owner": None, "lease": None}
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    changed = store.execute(
        f"UPDATE runs SET {assignments} WHERE key = :run_key AND owner = :run_owner",
        {**values, "run_key": key, "run_owner": str(owner)},
    )
    return changed.rowcount == 1


def claim_timing(store: sqlite3.Connection, key: str, owner: Owner) -> str:
    """Claim a run for timing, which excludes all other runs of the file.

    Returns:
        "claimed"; "busy" while a run is in progress or timed; or "done" if it has been timed.
    """
    with transaction(store):
        rows = store.execute("SELECT * FROM runs WHERE owner IS NOT NULL").fetchall()
        if any(_is_held(row) for row in rows):
            return "busy"
        changed = store.execute(
            "UPDATE runs SET owner = ?, lease = ? "
            "WHERE key = ? AND status = 'done' AND load_ratio IS NULL",
            (str(owner), time.time() + LEASE_SECONDS, key),
        )
    return "claimed" if changed.rowcount else "done"


def renew(store: sqlite3.Connection, owner: Owner) -> None:
    """Renew the leases of all runs that `owner` has claimed."""
    store.execute(
        "UPDATE runs SET lease = ? WHERE owner = ?", (time.time() + LEASE_SECONDS, str(owner))
    )


def release(store: sqlite3.Connection, owner: Owner) -> None:
    """Release all runs that `owner` has claimed; those in progress become missing."""
    store.execute("UPDATE runs SET owner = NULL, lease = NULL WHERE owner = ?", (str(owner),))


def reset(store: sqlite3.Connection, key: str) -> None:
    """Make a run missing again that failed, or that is done but has not been timed."""
    store.execute(
        "UPDATE runs SET status = 'running', owner = NULL, lease = NULL "
        "WHERE key = ? AND status != 'running' AND owner IS NULL AND load_ratio IS NULL",
        (key,),
    )


def _is_timing(store: sqlite3.Connection) -> bool:
    rows = store.execute("SELECT * FROM runs WHERE status = 'done' AND owner IS NOT NULL")
    return any(_is_held(row) for row in rows.fetchall())


def _is_held(row: sqlite3.Row) -> bool:
    """Return whether a run's owner is alive."""
    if row["owner"] is None or row["lease"] < time.time():
        return False
    host, pid, _ = row["owner"].rsplit(":", 2)
    return host != platform.node() or _is_alive(int(pid))


def _is_alive(pid: int) -> bool:
    # On Windows os.kill would end the process; only the lease counts there.
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

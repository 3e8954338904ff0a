"""The results of sweeps: one SQLite file, one row a run."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Row = dict[str, Any]

SCHEMA_VERSION = 1

LEASE_SECONDS = 60.0
"""How long a run is its owner's without a sign of life."""

BUSY_SECONDS = 60.0
"""How long to wait for another process that writes."""

COLUMNS = {
    # what the run is
    "key": "TEXT PRIMARY KEY",  # SHA-256 of what decides the result
    "status": "TEXT NOT NULL",  # running, done or failed
    "error": "TEXT",  # why it failed, one line
    "attempts": "INTEGER NOT NULL",  # how often it was begun
    "worker": "TEXT",  # where it ran last
    "model": "TEXT",
    "model_sha256": "TEXT",
    "dataset": "TEXT",
    "samples": "INTEGER",  # images judged
    "method": "TEXT",  # a codebook method, a baseline, or "target": calibrated to a budget
    "baseline": "INTEGER",  # 0 or 1
    "bits": "REAL",  # null for floats and budgets
    "budget": "TEXT",
    "granularity": "TEXT",
    "options": "TEXT",  # JSON
    # how it ran
    "versions": "TEXT",  # JSON
    "hardware": "TEXT",  # JSON
    "started": "TEXT",  # ISO 8601, UTC
    "wall_s": "REAL",
    "peak_rss_bytes": "INTEGER",
    # what came of it
    "weights": "INTEGER",
    "bits_per_weight": "REAL",  # 8 * file_bytes / weights
    "file_bytes": "INTEGER",
    "file_sha256": "TEXT",
    "gzip_bytes": "INTEGER",
    "brotli_bytes": "INTEGER",
    "top1": "REAL",  # shares, 0 to 1
    "top5": "REAL",
    "agreement": "REAL",
    "kl": "REAL",  # nats
    "weight_error": "REAL",  # ||decoded - weights|| / ||weights||, over all weights
    "entropy": "REAL",  # of the indices, bits a weight
    "load_ratio": "REAL",  # over the float model's
    "latency_ratio": "REAL",
    "layers": "TEXT",  # JSON
    "histogram": "TEXT",  # JSON
    # whose it is while it runs or is timed
    "owner": "TEXT",
    "lease": "REAL",  # seconds since 1970
}
"""Names and types of the table `runs`, in order."""

_CREATE = (
    f"CREATE TABLE IF NOT EXISTS runs ({', '.join(f'{k} {v}' for k, v in COLUMNS.items())})",
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"INSERT OR IGNORE INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}')",
)


@dataclass(frozen=True)
class Owner:
    """A process that sweeps.

    Attributes:
        host: the machine's name.
        pid: its process id.
        token: tells it from a later process of that id.
    """

    host: str
    pid: int
    token: str

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.token}"


def this_process() -> Owner:
    """Return a new owner that is this process."""
    return Owner(platform.node(), os.getpid(), uuid.uuid4().hex)


def open_store(path: Path) -> sqlite3.Connection:
    """Open a results file, made if it is not there. Other processes may have it open too.

    Raises:
        QqonnxError: it is no results file, or one of another version.
    """
    if not path.parent.is_dir():
        raise QqonnxError(f"{path}: there is no folder {path.parent}")
    return _opened(path, create=True)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a results file as {column: value}, in the order they were begun first.

    Raises:
        QqonnxError: there is no such file, it is no results file, or one of another version.
    """
    if not path.is_file():
        raise QqonnxError(f"{path}: no such results file")
    with closing(_opened(path, create=False)) as store:
        return [dict(row) for row in store.execute("SELECT * FROM runs ORDER BY rowid")]


def _opened(path: Path, *, create: bool) -> sqlite3.Connection:
    try:
        # Statements take effect at once but where `_transaction` says otherwise.
        store = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        store.row_factory = sqlite3.Row
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
        if tables and "meta" not in tables:
            raise QqonnxError(f"{path}: a database, but no results of qqonnx sweep")
        if create and "meta" not in tables:
            _write_ahead(store)
            with _transaction(store):
                for statement in _CREATE:
                    store.execute(statement)
        found = store.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
    except sqlite3.Error as error:
        raise QqonnxError(f"{path}: cannot be opened as results: {error}") from error
    version = found[0] if found else "none"
    if version != str(SCHEMA_VERSION):
        store.close()
        raise QqonnxError(
            f"{path}: results of version {version}; this qqonnx reads {SCHEMA_VERSION}"
        )
    return store


def _write_ahead(store: sqlite3.Connection) -> None:
    """Let there be readers and a writer at once; and what is committed survives the process."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            store.execute("PRAGMA journal_mode=WAL")
            return
        # For this statement SQLite does not wait: others may be making the same new file.
        except sqlite3.OperationalError as error:  # noqa: PERF203 - rarely more than once
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def claim(store: sqlite3.Connection, run: Mapping[str, Any], owner: Owner) -> str:
    """Take a run for `owner` if it is missing; in one transaction, so that nobody else does.

    A run that failed is not missing; `forget` makes it so.

    Args:
        store: the results.
        run: columns that say what the run is, its key among them.
        owner: who takes it.

    Returns:
        "taken"; or "done", "failed" or "running": what it is already; or "timing": nothing is
        taken, as somebody measures times on this file.
    """
    with _transaction(store):
        if _is_timing(store):
            return "timing"
        row = store.execute("SELECT * FROM runs WHERE key = ?", (run["key"],)).fetchone()
        if row is not None and (row["status"] != "running" or _is_held(row)):
            return str(row["status"])
        attempts = (row["attempts"] if row is not None else 0) + 1
        taken = {
            **dict.fromkeys(COLUMNS),
            **run,
            "status": "running",
            "attempts": attempts,
            "worker": f"{owner.host}:{owner.pid}",
            "owner": str(owner),
            "lease": time.time() + LEASE_SECONDS,
        }
        places = ", ".join(f":{name}" for name in COLUMNS)
        # Not "INSERT OR REPLACE", which would move the row to the end.
        store.execute(
            f"INSERT INTO runs VALUES ({places}) ON CONFLICT (key) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS),
            taken,
        )
    return "taken"


def begun_again(store: sqlite3.Connection, key: str, owner: Owner) -> None:
    """Record another attempt at a run that `owner` has taken."""
    store.execute(
        "UPDATE runs SET attempts = attempts + 1 WHERE key = ? AND owner = ?", (key, str(owner))
    )


def placed(store: sqlite3.Connection, key: str, owner: Owner, worker: str) -> None:
    """Record where a run is done that `owner` has taken."""
    store.execute(
        "UPDATE runs SET worker = ? WHERE key = ? AND owner = ?", (worker, key, str(owner))
    )


def finish(store: sqlite3.Connection, key: str, owner: Owner, result: Mapping[str, Any]) -> bool:
    """Record how a run ended, and let it go.

    Args:
        store: the results.
        key: the run's key.
        owner: who has it.
        result: columns and their values, "status" among them.

    Returns:
        False if the run is another's by now; nothing is recorded then.
    """
    values = {**result, "owner": None, "lease": None}
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    changed = store.execute(
        f"UPDATE runs SET {assignments} WHERE key = :run_key AND owner = :run_owner",
        {**values, "run_key": key, "run_owner": str(owner)},
    )
    return changed.rowcount == 1


def claim_timing(store: sqlite3.Connection, key: str, owner: Owner) -> str:
    """Take the whole file for timing a run that is done.

    Returns:
        "taken"; "busy" while any run is in progress or timed; or "done": it has been timed.
    """
    with _transaction(store):
        rows = store.execute("SELECT * FROM runs WHERE owner IS NOT NULL").fetchall()
        if any(_is_held(row) for row in rows):
            return "busy"
        changed = store.execute(
            "UPDATE runs SET owner = ?, lease = ? "
            "WHERE key = ? AND status = 'done' AND load_ratio IS NULL",
            (str(owner), time.time() + LEASE_SECONDS, key),
        )
    return "taken" if changed.rowcount else "done"


def renew(store: sqlite3.Connection, owner: Owner) -> None:
    """Give a sign of life."""
    store.execute(
        "UPDATE runs SET lease = ? WHERE owner = ?", (time.time() + LEASE_SECONDS, str(owner))
    )


def release(store: sqlite3.Connection, owner: Owner) -> None:
    """Let go of all that `owner` holds; runs in progress are missing then."""
    store.execute("UPDATE runs SET owner = NULL, lease = NULL WHERE owner = ?", (str(owner),))


def forget(store: sqlite3.Connection, key: str) -> None:
    """Make a run that failed, or that is done but was not timed, missing again."""
    store.execute(
        "UPDATE runs SET status = 'running', owner = NULL, lease = NULL "
        "WHERE key = ? AND status != 'running' AND owner IS NULL AND load_ratio IS NULL",
        (key,),
    )


def _is_timing(store: sqlite3.Connection) -> bool:
    rows = store.execute("SELECT * FROM runs WHERE status = 'done' AND owner IS NOT NULL")
    return any(_is_held(row) for row in rows.fetchall())


def _is_held(row: sqlite3.Row) -> bool:
    """Return whether a run's owner lives."""
    if row["owner"] is None or row["lease"] < time.time():
        return False
    host, pid, _ = row["owner"].rsplit(":", 2)
    return host != platform.node() or _lives(int(pid))


def _lives(pid: int) -> bool:
    # On Windows os.kill would end the process; there the lease alone tells.
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _transaction(store: sqlite3.Connection) -> Iterator[None]:
    """Run the block as one; the write lock is taken at its start, so that reads hold."""
    store.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        store.execute("ROLLBACK")
        raise
    store.execute("COMMIT")

"""The results file of sweeps: a SQLite database with one row per run."""

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

SCHEMA_VERSION = 2

LEASE_SECONDS = 60.0
"""How long a process owns a run without renewing its lease."""

BUSY_SECONDS = 60.0
"""How long to wait for another process to finish writing."""

COLUMNS = {
    # what the run is
    "key": "TEXT PRIMARY KEY",  # SHA-256 of everything that determines the result
    "status": "TEXT NOT NULL",  # running, done or failed
    "error": "TEXT",  # why it failed, one line
    "attempts": "INTEGER NOT NULL",  # number of attempts
    "worker": "TEXT",  # where the last attempt ran
    "model": "TEXT",
    "model_sha256": "TEXT",
    "dataset": "TEXT",
    "samples": "INTEGER",  # number of evaluation images
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
    # its result
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
    "entropy": "REAL",  # of the indices, bits per weight
    "load_ratio": "REAL",  # divided by the float model's
    "latency_ratio": "REAL",
    "layers": "TEXT",  # JSON
    "histogram": "TEXT",  # JSON
    # its result, in schema 2
    "cosine": "REAL",  # mean cosine with the float model's output, of the worst output
    "sqnr": "REAL",  # dB, of the worst output
    "relative_error": "REAL",  # root of mean squared error over variance, of the worst output
    "max_difference": "REAL",  # largest absolute difference of an output
    "intervals": "TEXT",  # JSON: name -> 95 % confidence interval
    "outputs": "TEXT",  # JSON: each output compared with the float model's
    "metrics": "TEXT",  # JSON: name -> value, interval and direction of the user's metrics
    # who owns it while it runs or is timed
    "owner": "TEXT",
    "lease": "REAL",  # seconds since 1970
}
"""Names and types of the columns of the table `runs`, in order."""

_CREATE = (
    f"CREATE TABLE IF NOT EXISTS runs ({', '.join(f'{k} {v}' for k, v in COLUMNS.items())})",
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"INSERT OR IGNORE INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}')",
)


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


def open_store(path: Path) -> sqlite3.Connection:
    """Open a results file that other processes may use too; create it if it does not exist.

    Raises:
        QqonnxError: the file is not a results file of this version.
    """
    if not path.parent.is_dir():
        raise QqonnxError(f"{path}: there is no folder {path.parent}")
    return _opened(path, create=True)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a results file as dictionaries, ordered by their first attempt.

    Raises:
        QqonnxError: there is no such file, or it is not a results file of this version.
    """
    if not path.is_file():
        raise QqonnxError(f"{path}: no such results file")
    with closing(_opened(path, create=False)) as store:
        return [dict(row) for row in store.execute("SELECT * FROM runs ORDER BY rowid")]


def _opened(path: Path, *, create: bool) -> sqlite3.Connection:
    try:
        # Autocommit, except within `_transaction`.
        store = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        store.row_factory = sqlite3.Row
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
        if tables and "meta" not in tables:
            raise QqonnxError(f"{path}: a database, but not one of qqonnx sweep")
        if create and "meta" not in tables:
            _write_ahead(store)
            with _transaction(store):
                for statement in _CREATE:
                    store.execute(statement)
        row = store.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
        if create and row is not None and row[0] == "1":
            _add_columns(store)
            row = (str(SCHEMA_VERSION),)
    except sqlite3.Error as error:
        raise QqonnxError(f"{path}: cannot be opened as results: {error}") from error
    version = row[0] if row else "none"
    # Rows of schema 1 only lack columns.
    if version != str(SCHEMA_VERSION) and (create or version != "1"):
        store.close()
        raise QqonnxError(
            f"{path}: results of version {version}; this qqonnx reads {SCHEMA_VERSION}"
        )
    return store


def _add_columns(store: sqlite3.Connection) -> None:
    """Add the columns of schema 2 to a file of schema 1."""
    with _transaction(store):
        known = {row[1] for row in store.execute("PRAGMA table_info(runs)")}
        for name, kind in COLUMNS.items():
            if name not in known:
                store.execute(f"ALTER TABLE runs ADD COLUMN {name} {kind}")
        version = (str(SCHEMA_VERSION),)
        store.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", version)


def _write_ahead(store: sqlite3.Connection) -> None:
    """Allow readers beside a writer; committed rows survive a crash of the process."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            store.execute("PRAGMA journal_mode=WAL")
            return
        # SQLite's timeout does not cover this statement, and others may create the same file.
        except sqlite3.OperationalError as error:  # noqa: PERF203 - rarely more than once
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


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
    with _transaction(store):
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
    with _transaction(store):
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


@contextmanager
def _transaction(store: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction; the write lock is taken at its start."""
    store.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        store.execute("ROLLBACK")
        raise
    store.execute("COMMIT")

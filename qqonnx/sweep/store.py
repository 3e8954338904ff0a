"""The results file of sweeps: a SQLite database with one row per run."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Row = dict[str, Any]

SCHEMA_VERSION = 2

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
        # Autocommit, except within `transaction`.
        store = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        store.row_factory = sqlite3.Row
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
        if tables and "meta" not in tables:
            raise QqonnxError(f"{path}: a database, but not one of qqonnx sweep")
        if create and "meta" not in tables:
            _write_ahead(store)
            with transaction(store):
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
    with transaction(store):
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


@contextmanager
def transaction(store: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction; the write lock is taken at its start."""
    store.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        store.execute("ROLLBACK")
        raise
    store.execute("COMMIT")

"""Results for other programs: CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.model.save import staged
from qqonnx.sweep.store import COLUMNS, read_rows

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("csv", "json", "parquet")

EXPORTED = tuple(name for name in COLUMNS if name not in ("owner", "lease"))
"""The columns that say something of a run."""

JSON_COLUMNS = ("options", "versions", "hardware", "layers", "histogram")


def export_results(path: Path, form: str) -> Path:
    """Write the results beside `path`, whole or not at all; returns the file.

    Args:
        path: a results file.
        form: "csv", "json" (with the columns that hold JSON as values of their own) or
            "parquet" (extra `parquet`).

    Raises:
        QqonnxError: there is no such format, a package is missing, or the file cannot be read
            or written.
    """
    if form not in FORMATS:
        raise QqonnxError(f"--export {form}: must be one of {', '.join(FORMATS)}")
    rows = [{name: row[name] for name in EXPORTED} for row in read_rows(path)]
    target = path.with_suffix(f".{form}")
    with staged(target) as written:
        if form == "parquet":
            _write_parquet(written, rows)
        else:
            text = _csv(rows) if form == "csv" else _json(rows)
            written.write_text(text, "utf-8", newline="")
    return target


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, EXPORTED, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(rows: list[dict[str, Any]]) -> str:
    decoded = [
        {
            name: json.loads(value) if name in JSON_COLUMNS and value is not None else value
            for name, value in row.items()
        }
        for row in rows
    ]
    return json.dumps(decoded, indent=1) + "\n"


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise QqonnxError('--export parquet: pip install "qqonnx[parquet]"') from error
    kinds = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    schema = pa.schema([(name, kinds[COLUMNS[name].split()[0]]) for name in EXPORTED])
    parquet.write_table(pa.Table.from_pylist(rows, schema), path)

"""Export of results as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from qqonnx.errors import OptionError
from qqonnx.extras import import_extra
from qqonnx.model.save import staged
from qqonnx.sweep.store import COLUMNS, read_rows

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("csv", "json", "parquet")

EXPORTED = tuple(name for name in COLUMNS if name not in ("owner", "lease"))
"""All columns but those that only manage a sweep in progress."""

JSON_COLUMNS = (
    "options",
    "versions",
    "hardware",
    "layers",
    "histogram",
    "intervals",
    "outputs",
    "metrics",
)
"""Columns that contain JSON text."""


def export_results(path: Path, file_format: str) -> Path:
    """Export results to a file beside `path`, and return that file.

    Args:
        path: a results file.
        file_format: "csv", "json" (JSON columns are decoded) or "parquet" (extra `parquet`).

    Raises:
        OptionError: the format is unknown.
        QqonnxError: a package is missing, or a file cannot be read or written.
    """
    if file_format not in FORMATS:
        raise OptionError("file_format", f"must be one of {', '.join(FORMATS)}")
    rows = [{name: row.get(name) for name in EXPORTED} for row in read_rows(path)]
    target = path.with_suffix(f".{file_format}")
    with staged(target) as written:
        if file_format == "parquet":
            _write_parquet(written, rows)
        else:
            text = _csv(rows) if file_format == "csv" else _json(rows)
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
    pa = import_extra("pyarrow", "parquet")
    parquet = import_extra("pyarrow.parquet", "parquet")
    kinds = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    schema = pa.schema([(name, kinds[COLUMNS[name].split()[0]]) for name in EXPORTED])
    parquet.write_table(pa.Table.from_pylist(rows, schema), path)

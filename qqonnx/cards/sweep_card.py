"""The card of a sweep: its runs in a table, and the digests of their files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qqonnx.cards.markdown import made_with, table, write_card
from qqonnx.errors import QqonnxError
from qqonnx.sweep.store import read_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Row = Mapping[str, Any]

_COLUMNS = {
    "file_bytes": ("bytes", "{:,}", 1),
    "bits_per_weight": ("bits per weight", "{:.2f}", 1),
    "top1": ("top-1 %", "{:.2f}", 100),
    "top5": ("top-5 %", "{:.2f}", 100),
    "agreement": ("agreement %", "{:.2f}", 100),
    "kl": ("KL nats", "{:.4f}", 1),
    "relative_error": ("relative error %", "{:.2f}", 100),
    "cosine": ("cosine", "{:.5f}", 1),
    "load_ratio": ("load ×", "{:.2f}", 1),
    "latency_ratio": ("run ×", "{:.2f}", 1),
}
"""Column of the results -> title, form and factor."""


def write_sweep_card(path: Path, results: Path, command: str | None = None) -> None:
    """Write the card of a sweep.

    Args:
        path: the Markdown file to write.
        results: the results file.
        command: the command that ran the sweep.

    Raises:
        QqonnxError: the results cannot be read or hold no finished run, or the card cannot be
            written.
    """
    rows = [row for row in read_rows(results) if row["status"] == "done"]
    if not rows:
        raise QqonnxError(f"{results}: no run is done, so there is nothing for a card")
    subjects: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        subjects.setdefault((row["model"], row["model_sha256"], row["dataset"]), []).append(row)
    sections = [f"# {results.name}", made_with(command)]
    for own in subjects.values():
        sections += _subject(own)
    versions = sorted({f"{name} {v}" for row in rows for name, v in _json(row["versions"]).items()})
    sections += [
        f"The runs used {', '.join(versions)}." if versions else "",
        "Ratios of time compare with the float model, measured in turns on one machine.",
        "## Files",
        table(
            ("file", "SHA-256"),
            [
                [f"{row['model']}: {_setting(row)}", f"`{row['file_sha256']}`"]
                for row in rows
                if row["file_sha256"]
            ],
        ),
    ]
    write_card(path, list(filter(None, sections)))


def _subject(rows: Sequence[Row]) -> list[str]:
    """Return the heading and the table of one model and data set, the largest file first."""
    shown = [name for name in _COLUMNS if any(row[name] is not None for row in rows)]
    metrics = list(dict.fromkeys(name for row in rows for name in _json(row["metrics"])))
    ordered = sorted(rows, key=lambda row: -(row["file_bytes"] or 0))
    body = [
        [
            _setting(row),
            *(_cell(row[name], *_COLUMNS[name][1:]) for name in shown),
            *(_cell(_json(row["metrics"]).get(name, {}).get("value")) for name in metrics),
        ]
        for row in ordered
    ]
    first = rows[0]
    return [
        f"## {first['model']} on {first['dataset']}",
        f"{first['samples']} samples. Digest of the float model: `{first['model_sha256']}`.",
        table(["how", *(_COLUMNS[name][0] for name in shown), *metrics], body),
    ]


def _setting(row: Row) -> str:
    """Return how a file was made, in a few words."""
    parts = [row["budget"] or row["method"]]
    if row["bits"] is not None and not row["budget"]:
        parts.append(f"{row['bits']:g} bits")
    if row["granularity"] not in (None, "tensor"):
        parts.append(f"one {row['granularity']} per channel")
    return ", ".join(map(str, parts))


def _cell(value: Any, form: str = "{:.4g}", factor: float = 1) -> str:
    return "" if value is None else form.format(value * factor)


def _json(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}

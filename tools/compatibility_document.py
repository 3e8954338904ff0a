"""The section of docs/compatibility.md on files with their own weights."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from compatibility_packages import SHIPPED

Result = dict[str, Any]

LABELS = ("8 bits", "4 bits", "4.4 bits")


def trained_section(results: list[Result]) -> str:
    """Return the table of files that packages ship."""
    converted = [result for result in results if "bytes" in result.get("8 bits", {})]
    verified = [
        result
        for result in converted
        if all(result.get(label, {}).get("verified", True) for label in LABELS)
    ]
    packages = {result["name"].split("/")[1] for result in results}
    lines = [
        f"**{len(results)} files of {len(packages)} packages: {len(converted)} converted, "
        f"{len(verified)} of them verified.**",
        "",
        "| file | task | inputs | float MB | 8 bits | 4 bits, scales | 4.4 bits, calibrated |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    lines += [_row(result) for result in sorted(results, key=lambda row: str(row["name"]))]
    notes = [note for result in results for note in _notes(result)]
    if notes:
        lines += ["", "What did not work:", "", *[f"- {note}" for note in notes]]
    names = {result["name"] for result in results}
    missing = [s for s in SHIPPED if f"pypi/{s.package}/{s.file}" not in names]
    if missing:
        listed = ", ".join(f"{s.package}: {s.file}" for s in missing)
        lines += ["", f"Not run yet: {listed}."]
    made = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "onnx"))
    return "\n".join([*lines, "", f"Made with {made}."])


def _row(result: Result) -> str:
    name = result["name"].removeprefix("pypi/")
    package, _, file = name.partition("/")
    size = f"{result['bytes'] / 1e6:.2f}" if "bytes" in result else ""
    title = f"{package} {result.get('version', '')}: {file}"
    cells = [title, result.get("task", ""), result.get("inputs", "").replace("_", " "), size]
    cells += [_cell(result.get(label)) for label in LABELS]
    return "| " + " | ".join(cells) + " |"


def _cell(entry: Result | None) -> str:
    if entry is None or "bytes" not in entry:
        return "–"
    size = f"{entry['bytes'] / 1e6:.2f} MB"
    if any("another shape" in note for note in entry.get("notes", ())):
        return f"{size}, other lengths"
    if entry.get("agreement") is not None:
        return f"{size}, {100 * entry['agreement']:.1f} %"
    if entry.get("cosine") is not None:
        return f"{size}, {entry['cosine']:.4f}"
    return size


def _notes(result: Result) -> list[str]:
    name = result["name"].removeprefix("pypi/")
    if "failed" in result:
        return [f"`{name}`: {result['failed']}"]
    failures = {
        label: entry["failed"] for label in LABELS if "failed" in (entry := result.get(label, {}))
    }
    if len(set(failures.values())) == 1:
        labels = ", ".join(failures) if len(failures) < len(LABELS) else "all"
        return [f"`{name}`, {labels}: {next(iter(failures.values()))}"]
    return [f"`{name}`, {label}: {text}" for label, text in failures.items()]

"""Parts of a card as Markdown: tables, digests, versions."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from qqonnx.digests import file_digest
from qqonnx.errors import QqonnxError, printable
from qqonnx.model.load import model_files, read
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "numpy")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the first column is text, the others are numbers."""
    head = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    lines = [*head, *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def file_rows(model: Path, label: str | None = None) -> list[list[str]]:
    """Return name, bytes and SHA-256 of a model's files: the ONNX file and its external data."""
    rows = []
    for file in model_files(read(model), model):
        name = file.name if label is None or file != model else label
        rows.append([name, f"{file.stat().st_size:,}", f"`{file_digest(file)}`"])
    return rows


def made_with(command: str | None) -> str:
    """Return the command, and the versions of what ran it."""
    versions = [f"qqonnx {__version__}", *(f"{name} {version(name)}" for name in _PACKAGES)]
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [f"    {printable(command)}", ""] if command else []
    return "\n".join([*lines, f"Made with {', '.join(versions)}; {system}."])


def how_to_load(model: str, *, standard: bool) -> str:
    """Return how a file is loaded."""
    needs = (
        "Any ONNX Runtime of version 1.15 or later loads the file as it loads the original model, "
        "without qqonnx: it holds only standard operators."
        if standard
        else "ONNX Runtime loads the file as it loads the original model, without qqonnx. It holds "
        "operators beyond the ONNX standard, which other runtimes may not have."
    )
    return (
        f"{needs}\n\n```python\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{model}")\n```\n\n'
        "Do not simplify the file: a simplifier turns the weights back into floats.\n"
        "`qqonnx restore` does the same on purpose."
    )


def write_card(path: Path, sections: Sequence[str]) -> None:
    """Write the sections of a card.

    Raises:
        QqonnxError: the file cannot be written.
    """
    try:
        path.write_text("\n\n".join(sections) + "\n", "utf-8")
    except OSError as error:
        raise QqonnxError(f"{path}: cannot write: {error.strerror}") from error


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")

"""Sections of a document that a script writes: the text between two markers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_section(file: Path, name: str, text: str) -> None:
    """Put `text` between the lines `<!-- name -->` and `<!-- /name -->` of `file`.

    Raises:
        SystemExit: the file does not have these lines.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    pattern = re.compile(f"(?<={re.escape(start)}).*?(?={re.escape(end)})", re.DOTALL)
    content, count = pattern.subn(lambda _: text.rstrip("\n") + "\n", file.read_text("utf-8"))
    if count != 1:
        raise SystemExit(f"{file}: no line {start.strip()} before a line {end}")
    file.write_text(content, "utf-8")


def add_sections(file: Path, title: str, names: list[str]) -> None:
    """Add empty sections that `file` lacks; create it with `title` if it does not exist."""
    text = file.read_text("utf-8") if file.exists() else f"# {title}\n"
    for name in names:
        if f"<!-- {name} -->\n" not in text:
            text = f"{text.rstrip()}\n\n<!-- {name} -->\n<!-- /{name} -->\n"
    file.write_text(text, "utf-8")


def write_or_print(file: Path | None, name: str, text: str) -> None:
    """Write a section of `file` with `write_section`, or print it if `file` is None."""
    if file is not None:
        write_section(file, name, text)
    else:
        print(text)

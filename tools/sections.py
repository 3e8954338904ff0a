"""Sections of a document that a script writes: what stands between two markers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_section(file: Path, name: str, text: str) -> None:
    """Put `text` between the lines `<!-- name -->` and `<!-- /name -->` of `file`.

    Raises:
        SystemExit: the file has no such lines.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    pattern = re.compile(f"(?<={re.escape(start)}).*?(?={re.escape(end)})", re.DOTALL)
    content, count = pattern.subn(lambda _: text.rstrip("\n") + "\n", file.read_text("utf-8"))
    if count != 1:
        raise SystemExit(f"{file}: has no line {start.strip()} before a line {end}")
    file.write_text(content, "utf-8")

"""Run every benchmark section in one go and write docs/performance.md.

    python tools/bench.py [--largest 8] [--repeats 3] [--sections conversion,...] [--markdown FILE]

A section is a function that returns Markdown. Its figures are ratios within one run. Each section
stands between its own markers, so that it can be measured again alone. Other packages that are not
installed are named and omitted (`pip install -e ".[bench]"`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import bench_load
import bench_scaling
import bench_small
import bench_stages
from sections import add_sections, write_section

if TYPE_CHECKING:
    from collections.abc import Callable

SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "conversion": bench_scaling.section,
    "stages": bench_stages.section,
    "load": bench_load.section,
    "small": bench_small.section,
}
"""Sections in the order of the document: name -> function from options to Markdown."""

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", default=",".join(SECTIONS), help="names of the sections")
    parser.add_argument("--largest", type=int, default=8, help="at most 10^N weights (8)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the least counts (3)")
    parser.add_argument("--markdown", type=Path, default=DOCUMENT, help="the file to write")
    options = parser.parse_args()
    unknown = set(options.sections.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {min(unknown)!r}; there are {', '.join(SECTIONS)}")
    names = options.sections.split(",")
    add_sections(options.markdown, "Performance", names)
    for name in names:
        write_section(options.markdown, name, SECTIONS[name](options))


if __name__ == "__main__":
    main()

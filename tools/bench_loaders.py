"""Run the pages of examples/loaders and write what they found as a table.

    python examples/loaders/minilm.py build/minilm
    python tools/bench_loaders.py build/minilm build/ocr --write docs/loaders.md

Pages whose packages are missing are left out, with a line on stderr. The Java page needs
ONNXRUNTIME_JAR. Each page measures its times in turns within one process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sections import write_or_print

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / "examples" / "loaders"
NODE = ROOT / "examples" / "web" / "loaders"
COLUMNS = ("loader", "file", "MB", "quality")
TIMES = ("load", "run")


def main() -> None:
    """Run each page and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minilm", type=Path, help="folder that minilm.py filled")
    parser.add_argument("ocr", type=Path, help="folder for the models of rapidocr")
    parser.add_argument("--write", type=Path, help="Markdown file whose section is replaced")
    parser.add_argument("--times", action="store_true", help="also times, on an idle machine")
    arguments = parser.parse_args()
    times = TIMES if arguments.times else ()
    arguments.ocr.mkdir(parents=True, exist_ok=True)
    jar = os.environ.get("ONNXRUNTIME_JAR", "")
    python = sys.executable
    pages = {
        "sentence-transformers": [python, PYTHON / "use_sentence_transformers.py"],
        "optimum": [python, PYTHON / "use_optimum.py"],
        "transformers.js, Node": ["node", NODE / "transformers.mjs"],
        "onnxruntime-node": ["node", NODE / "onnxruntime_node.mjs"],
        "Java": ["java", "-cp", jar, PYTHON / "Session.java"],
        "rapidocr": [python, PYTHON / "use_rapidocr.py"],
    }
    titles = [*COLUMNS, *(f"{name} ×" for name in times)]
    lines = [f"| {' | '.join(titles)} |", "|---|---|---:|---|" + "---:|" * len(times)]
    for loader, command in pages.items():
        folder = arguments.ocr if loader == "rapidocr" else arguments.minilm
        lines += [f"| {loader} | {' | '.join(row)} |" for row in rows(command, folder, times)]
    note = "Quality relative to the float model; characters of rendered text for rapidocr."
    if times:
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        note += f" Times divided by the float model's; {machine}."
    lines += ["", note]
    text = "\n".join(lines)
    write_or_print(arguments.write, "loaders", text)


def rows(command: list[Any], folder: Path, times: Sequence[str]) -> list[list[str]]:
    """Run a page; return kind, size, quality and times of each file, or nothing if it fails."""
    done = subprocess.run([*map(str, command), str(folder)], capture_output=True, text=True)
    if done.returncode:
        print(f"{command[-1]}: left out: {done.stderr.strip()[-200:]}", file=sys.stderr)
        return []
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    kinds = {row.pop("kind"): row for row in found} if len(found) > 1 else found[0]
    names = {"float": "float", "int8": "int8", "small": "qqonnx"}
    return [
        [
            names[kind],
            f"{row['bytes'] / 1e6:.1f}",
            quality(row),
            *(f"{row[name] / kinds['float'][name]:.2f}" if name in row else "" for name in times),
        ]
        for kind, row in kinds.items()
    ]


def quality(row: dict[str, float]) -> str:
    """Return the page's own measures of quality."""
    if "characters" in row:
        return f"{100 * row['characters']:.1f} % of characters right"
    text = f"cosine {row['cosine']:.4f}"
    if "same nearest" in row:
        text += f", same nearest sentence {100 * row['same nearest']:.0f} %"
    return text


if __name__ == "__main__":
    main()

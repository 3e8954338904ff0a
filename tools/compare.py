"""Compress a model by several methods at several bit-widths and print accuracy, size and speed.

    python tools/compare.py MODEL --data DATA [--methods uq,qq,kmeans] [--bits 2,3,4,6,8]
    python tools/compare.py MODEL --data DATA --markdown README.md

With --markdown the table replaces the text between `<!-- compare -->` and `<!-- /compare -->` in
the file. Load time and latency are ratios to the float model in the same run: measure them on an
idle machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort
from rich.console import Console
from rich.progress import track
from sections import write_section

from qqonnx import Options, compress, evaluate

if TYPE_CHECKING:
    from qqonnx.evaluation import Evaluation


def compare(arguments: argparse.Namespace) -> Evaluation:
    """Compress by every method at every bit-width, and evaluate."""
    cases = [
        (method, int(bits))
        for bits in arguments.bits.split(",")
        for method in arguments.methods.split(",")
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for method, bits in track(cases, "compressing", console=Console(stderr=True)):
            file = Path(folder) / f"{method} {bits} bits"
            granularity = None if method == "auto" else arguments.granularity
            options = Options(method=method, bits=bits, granularity=granularity)
            compress(arguments.model, file, options)
            files.append(file)
        return evaluate(files, arguments.data, baseline=arguments.model, limit=arguments.limit)


def markdown(result: Evaluation, arguments: argparse.Namespace) -> str:
    """Return the rows as a Markdown table with a description of the measurement."""
    lines = [
        "| method | bits | top-1 % | agree % | KL nats | kB | times smaller | load × | run × |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    whole = result.rows[0].bytes
    for number, row in enumerate(result.rows):
        method, bits = ("float", "32") if number == 0 else row.model.split()[:2]
        cells = [
            f"{100 * (row.top1 or 0):.2f}",
            f"{100 * (row.agreement or 0):.2f}",
            f"{row.kl or 0:.4f}",
            f"{row.bytes / 1e3:,.0f}",
            f"{whole / row.bytes:.2f}",
            f"{row.load_ratio:.2f}",
            f"{row.latency_ratio:.2f}",
        ]
        lines.append(f"| {method} | {bits} | {' | '.join(cells)} |")
    lines += [
        "",
        f"`{arguments.model.name}`, {result.rows[0].samples} images of `{arguments.data.name}`, "
        f"granularity {arguments.granularity} except for auto, which calibrates without data here. "
        "Agreement and KL compare with the float model. Load and run are times divided by the "
        "float model's in the same run, one image at a time. "
        f"ONNX Runtime {ort.__version__}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.machine()}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Compress, evaluate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", default="auto,uq,pwlq,qq,kmeans")
    parser.add_argument("--bits", default="2,3,4,6,8")
    parser.add_argument("--granularity", default="tensor")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--markdown", type=Path, help="write the table into this file")
    arguments = parser.parse_args()
    result = compare(arguments)
    if arguments.markdown:
        write_section(arguments.markdown, "compare", markdown(result, arguments))
    else:
        Console().print(result.table())
        print(f"{result.rows[0].samples} images; load and run: ratios to the float model")


if __name__ == "__main__":
    main()

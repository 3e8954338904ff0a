"""Compress a model by several methods at several bit-widths and print what each costs.

python tools/compare.py MODEL --data DATA [--methods uq,qq,kmeans] [--bits 2,3,4,6,8]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from qqonnx import Options, compress, evaluate


def main() -> None:
    """Compress, evaluate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", default="uq,pwlq,qq,kmeans")
    parser.add_argument("--bits", default="2,3,4,6,8")
    parser.add_argument("--granularity", default="tensor")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for bits in map(int, arguments.bits.split(",")):
            for method in arguments.methods.split(","):
                file = Path(folder) / f"{method} {bits} bits"
                options = Options(method=method, bits=bits, granularity=arguments.granularity)
                compress(arguments.model, file, options)
                files.append(file)
        result = evaluate(files, arguments.data, baseline=arguments.model, limit=arguments.limit)
    console.print(result.table())
    console.print(f"{result.rows[0].images} images; load and run: ratios to the float model")


if __name__ == "__main__":
    main()

"""Compress real models at every width and granularity, verify them, and account for every byte.

    python tools/check_models.py [MODEL ...] [--bits 1,2,...,8] [--method qq] [--json]

MODEL is an ONNX file or a name that `qqonnx export` knows. torchvision's models are exported with
random weights. The default is the bundled model, EfficientNet-Lite0 with its ImageNet weights, and
the study's torchvision models. Each compressed file is checked as in `convert-model`: every weight
decodes bit for bit as planned, ONNX Runtime loads and runs the file, and its outputs are those of
plain float weights. The exit code is 1 if a file is larger than allowed.

The file size is compared with `bits / 8 x weights + everything that is not compressed`. The rest is
shown by kind: first codebooks and scales, then the graph, which is the decode nodes with their
names and the metadata record. The graph may take `GRAPH_BYTES` per weight tensor. "overhead" is the
graph's share of the file. "entropy" is the excess of the stored indices over their entropy, n x H
bits summed over the weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from qqonnx import Options, compress, export
from qqonnx.config import GRANULARITIES, Granularity

DIGITS = Path(__file__).parent.parent / "models" / "digits_mobilenet_v3_small.onnx"
MODELS = (
    str(DIGITS),
    "efficientnet_lite0",
    "resnet18",
    "resnet50",
    "googlenet",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
)

GRAPH_BYTES = 300
SHARE = 0.01


@dataclass(frozen=True)
class Row:
    """One compressed file.

    Attributes:
        model: the model's name.
        granularity: as in the options.
        bits: as in the options.
        weights: number of compressed weight tensors.
        file: bytes of the file.
        expected: bits / 8 x their elements, plus the bytes that are not compressed.
        codebooks: bytes of codebooks and scales.
        graph: bytes of decode nodes and of the metadata record.
        indices: bytes of indices.
        entropy: bytes of the indices' entropy.
    """

    model: str
    granularity: str
    bits: int
    weights: int
    file: int
    expected: float
    codebooks: int
    graph: int
    indices: float
    entropy: float

    @property
    def fits(self) -> bool:
        """Whether the file is no larger than allowed."""
        unexplained = self.file - self.expected - self.codebooks
        return unexplained <= SHARE * self.expected + GRAPH_BYTES * self.weights


def check(model: Path, granularity: Granularity, bits: int, method: str, folder: Path) -> Row:
    """Compress one model and account for its bytes."""
    options = Options(method=method, bits=bits, granularity=granularity)
    report = compress(model, folder / "compressed.onnx", options)
    if report.outputs.reason:
        raise SystemExit(f"{model.stem}: outputs not compared: {report.outputs.reason}")
    before = sum(weight.bytes_before for weight in report.weights)
    indices = before / 4 * bits / 8
    payload = sum(weight.bytes_after for weight in report.weights)
    rest = report.bytes_before - before
    return Row(
        model.stem,
        granularity,
        bits,
        len(report.weights),
        report.bytes_after,
        indices + rest,
        round(payload - indices),
        report.bytes_after - payload - rest,
        sum(prod(weight.shape) * weight.bits for weight in report.weights) / 8,
        sum(prod(weight.shape) * weight.entropy for weight in report.weights) / 8,
    )


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "granularity"):
        table.add_column(column)
    columns = ("bits", "weights", "file", "bits/8 + rest", "beyond %", "codebooks", "graph")
    for column in (*columns, "overhead %", "entropy +%"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        beyond = 100 * (row.file / row.expected - 1)
        numbers = (row.bits, row.weights, row.file, round(row.expected))
        cells = [f"{number:,}" for number in numbers]
        cells += [f"{beyond:.2f}", f"{row.codebooks:,}", f"{row.graph:,}"]
        cells += [
            f"{100 * row.graph / row.file:.2f}",
            f"{100 * (row.indices / row.entropy - 1):.1f}",
        ]
        table.add_row(row.model, row.granularity, *cells, style=None if row.fits else "red")
    Console(width=140).print(table)


def main() -> None:
    """Check every model, granularity and width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--bits", default="1,2,3,4,5,6,7,8")
    parser.add_argument("--granularities", default=",".join(GRANULARITIES))
    parser.add_argument(
        "--method", default="qq", help="the codebook method; it does not change sizes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in arguments.models:
            path = Path(model)
            if not path.is_file():
                path = folder / f"{model}.onnx"
                weights = "DEFAULT" if model == "efficientnet_lite0" else "none"
                export(model, path, weights=weights)
            cases = [
                (granularity, int(bits))
                for granularity in arguments.granularities.split(",")
                for bits in arguments.bits.split(",")
            ]
            for granularity, bits in track(cases, path.stem, console=Console(stderr=True)):
                rows.append(check(path, granularity, bits, arguments.method, folder))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        show(rows)
    if not all(row.fits for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

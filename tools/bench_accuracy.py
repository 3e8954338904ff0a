"""Accuracy against file size: methods without calibration, and calibration at several targets.

python tools/bench_accuracy.py MODEL --data FOLDER [--targets 2.5,3.4,4.4,6,8]

The images are split into two halves. One half calibrates (at most 256 of its images) while the
other is evaluated, then the halves change roles, and the results are summed: no image is evaluated
with a model that was calibrated with it. Needs the extra `images` and, for the picture, matplotlib.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy_figure import Point, draw
from rich.console import Console
from rich.table import Table
from sections import write_section

import qqonnx
from qqonnx import Options, compress
from qqonnx.config import Calibration, Granularity, Target
from qqonnx.evaluation.loaded import load_model
from qqonnx.evaluation.metrics import Counts, count
from qqonnx.evaluation.score import class_outputs
from qqonnx.inputs import open_dataset
from qqonnx.inputs.dataset import batches, output_indices
from qqonnx.inputs.preprocessing import for_model
from qqonnx.sweep.machine import peak_bytes


@dataclass(frozen=True)
class Images:
    """Images, float32 [n, channels, height, width], and their correct outputs, int64 [n]."""

    inputs: np.ndarray
    answers: np.ndarray


@dataclass(frozen=True)
class Row:
    """Result of one way to compress, summed over both halves."""

    label: str
    calibrated: bool
    bits: float
    nbytes: int
    counts: Counts
    seconds: float


Compressor = Callable[[Path, Path, "Path | None"], None]


def main() -> None:
    """Compress, evaluate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder or .npz")
    parser.add_argument("--targets", default="2.5,3.4,4.4,6,8", help="bits of the file per weight")
    parser.add_argument(
        "--plain", default="3,4,6,8", help="bits of the methods without calibration"
    )
    parser.add_argument("--data-free", default="3.4,4.4,6", help="targets without images")
    parser.add_argument("--finetune", default="", help="targets with fine-tuning")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--name", help="name of the model in tables and pictures")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="document to write the table into")
    parser.add_argument("--picture", type=Path, help="file to draw, .png or .svg")
    arguments = parser.parse_args()
    name = arguments.name or arguments.model.stem
    images = read_images(arguments.model, arguments.data, arguments.limit)
    weights = weight_count(arguments.model)
    reference = outputs_of(arguments.model, images.inputs)
    rows = [Row("float", False, *measured_float(arguments.model, weights, reference, images), 0.0)]
    for label, calibrated, compressor in compressors(arguments):
        row = measure(arguments.model, label, calibrated, compressor, images, reference, weights)
        rows.append(row)
        Console(stderr=True).print(line(row), highlight=False)
    show(rows)
    machine = (
        f"{name}, {rows[0].counts.samples} images of {arguments.data.name}, {weights:,} weights; "
        f"qqonnx {qqonnx.__version__}, {platform.machine()}, peak memory "
        f"{(peak_bytes() or 0) / 1e9:.2f} GB"
    )
    print(machine)
    if arguments.json:
        content = [{**vars(row), "counts": vars(row.counts)} for row in rows]
        arguments.json.write_text(json.dumps({"run": machine, "rows": content}, indent=1) + "\n")
    if arguments.markdown:
        write_markdown(arguments.markdown, name, rows, machine)
    if arguments.picture:
        points = [
            Point(row.label, row.nbytes, 100 * row.counts.agreeing / row.counts.samples)
            for row in rows[1:]
        ]
        draw(rows[0].nbytes, points, name, arguments.picture)


def compressors(arguments: argparse.Namespace) -> list[tuple[str, bool, Compressor]]:
    """Return what is compared: a label, whether calibration images are used, and a function."""
    found: list[tuple[str, bool, Compressor]] = []
    plain = [int(bits) for bits in arguments.plain.split(",") if bits]

    def without(bits: int, granularity: Granularity | None) -> Compressor:
        options = Options(bits=bits, granularity=granularity)
        return lambda model, output, _: void(compress(model, output, options))

    def fixed(bits: int) -> Compressor:
        return lambda model, output, data: void(
            compress(model, output, Options(bits=bits), calibration=Calibration(data))
        )

    def towards(bits: float, data_free: bool, finetune: bool = False) -> Compressor:
        target = Target(bits=bits)
        return lambda model, output, data: void(
            compress(
                model,
                output,
                calibration=Calibration(
                    None if data_free else data, target=target, finetune=finetune
                ),
            )
        )

    for bits in plain:
        found.append(
            (f"k-means, one codebook per tensor, {bits} bits", False, without(bits, "tensor"))
        )
        found.append((f"k-means, scale per channel, {bits} bits", False, without(bits, "scale")))
        found.append((f"auto, {bits} bits, data-free", False, without(bits, None)))
        found.append((f"auto, {bits} bits", True, fixed(bits)))
    for suffix, bits_of_files, data_free, finetune in (
        (", data-free", floats(arguments.data_free), True, False),
        ("", floats(arguments.targets), False, False),
        (", fine-tuning", floats(arguments.finetune), False, True),
    ):
        found += [
            (
                f"target of {bits:g} bits{suffix}",
                not data_free,
                towards(bits, data_free, finetune),
            )
            for bits in bits_of_files
        ]
    return found


def floats(text: str) -> list[float]:
    """Read comma-separated numbers."""
    return [float(number) for number in text.split(",") if number]


def void(_: object) -> None:
    """Discard a result."""


def read_images(model: Path, data: Path, limit: int | None) -> Images:
    """Return preprocessed images and their correct outputs."""
    loaded = load_model(model)
    preprocessing, _ = for_model(loaded.metadata, loaded.size)
    dataset = open_dataset(data, limit)
    inputs, labels = [], []
    for batch in batches(dataset, preprocessing, 32):
        if batch.images is None or batch.labels is None:
            raise SystemExit(f"{data}: not labelled images")
        inputs.append(batch.images)
        labels.append(batch.labels)
    stacked = np.concatenate(inputs)
    scores = class_outputs(loaded.run({"images": stacked[:1]}), 1)
    if scores is None:
        raise SystemExit(f"{model}: not a classifier")
    classes = scores.shape[1]
    return Images(stacked, output_indices(dataset, classes)[np.concatenate(labels)])


def outputs_of(model: Path, inputs: np.ndarray) -> np.ndarray:
    """Run a model on images, 25 at a time."""
    loaded = load_model(model)
    parts = [inputs[i : i + 25] for i in range(0, len(inputs), 25)]
    return np.concatenate([class_outputs(loaded.run({"images": p}), len(p)) for p in parts])


def weight_count(model: Path) -> int:
    """Return the number of values in the weights that `compress` would compress."""
    from qqonnx.config import plan_weights
    from qqonnx.model.load import load
    from qqonnx.model.select import select

    plans, _ = plan_weights(select(load(model))[0], Options())
    return sum(entry.weight.tensor.size for entry in plans)


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two random halves of the images, the same in every run."""
    order = np.random.default_rng(1).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def measured_float(
    model: Path, weights: int, reference: np.ndarray, images: Images
) -> tuple[float, int, Counts]:
    """Return bits per weight, bytes and counts of the float model."""
    nbytes = model.stat().st_size
    return 8 * nbytes / weights, nbytes, count(reference, images.answers, reference)


def measure(
    model: Path,
    label: str,
    calibrated: bool,
    compressor: Compressor,
    images: Images,
    reference: np.ndarray,
    weights: int,
) -> Row:
    """Compress with each half, or once without images, and evaluate on the other half."""
    first, second = halves(len(images.answers))
    everything = np.arange(len(images.answers))
    folds = [(first, second), (second, first)] if calibrated else [(first, everything)]
    total, seconds, nbytes = Counts(), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seen, judged in folds:
            data = None
            if calibrated:
                data = Path(folder) / "calibration.npy"
                np.save(data, images.inputs[seen])
            output = Path(folder) / "compressed.onnx"
            start = time.perf_counter()
            compressor(model, output, data)
            seconds += time.perf_counter() - start
            nbytes = max(nbytes, output.stat().st_size)
            outputs = outputs_of(output, images.inputs[judged])
            total += count(outputs, images.answers[judged], reference[judged])
    return Row(label, calibrated, 8 * nbytes / weights, nbytes, total, seconds / len(folds))


def line(row: Row) -> str:
    """Return a row as text."""
    return " | ".join(cells(row))


def cells(row: Row) -> list[str]:
    """Return a row's cells."""
    counts = row.counts
    return [
        row.label,
        f"{row.nbytes / 1e6:.3f}",
        f"{row.bits:.2f}",
        f"{100 * counts.top1 / counts.samples:.1f}",
        f"{100 * counts.agreeing / counts.samples:.1f}",
        f"{counts.kl / counts.samples:.4f}",
    ]


COLUMNS = ("method", "MB", "bits per weight", "top-1 %", "agree %", "KL nats")


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=120).print(table)


def write_markdown(path: Path, name: str, rows: list[Row], machine: str) -> None:
    """Replace the section `bench_accuracy NAME` of a document."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    lines += [f"| {line(row)} |" for row in rows]
    content = "\n".join(lines)
    write_section(path, f"bench_accuracy {name}", f"{content}\n\n{machine}.")


if __name__ == "__main__":
    main()

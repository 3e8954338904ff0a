"""Integer execution: size, quality and speed beside the float model and ONNX Runtime's int8.

    python tools/bench_int8.py MODEL --data DATA [--name NAME] [--form int8-static]
        [--bits 4.4,8] [--write docs/performance.md] [--headline README.md]

DATA is whatever `qqonnx evaluate --data` takes. Every second run calibrates and the others are
evaluated; --judge names other data for that. `--write` and `--headline` replace the sections
"int8 NAME" and "headline NAME" of documents.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from sections import write_section

from qqonnx import Calibration, Options, Target, compress, evaluate
from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.evaluation.loaded import load_model
from qqonnx.evaluation.samples import open_samples
from qqonnx.inputs.masks import padding_mask
from qqonnx.integer.layers import form_of
from qqonnx.model.load import load
from qqonnx.sweep.baselines import BaselineRequest
from qqonnx.sweep.ort_baselines import dynamic_int8, qdq_channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qqonnx.config import Compute
    from qqonnx.evaluation.results import Row

Feed = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the tables: heading, number, and whether the short table has it."""

    title: str
    name: str
    form: str
    factor: float = 100
    short: bool = False


COLUMNS = (
    Column("MB", "bytes", "{:.2f}", 1e-6, short=True),
    Column("top-1 %", "top1", "{:.1f}", short=True),
    Column("same answer as float %", "agreement", "{:.1f}", short=True),
    Column("KL nats", "kl", "{:.4f}", 1),
    Column("cosine of sentences", "sentence_cosine", "{:.4f}", 1, short=True),
    Column("cosine", "cosine", "{:.4f}", 1),
    Column("run ×", "latency_ratio", "{:.2f}", 1, short=True),
    Column("load ×", "load_ratio", "{:.2f}", 1, short=True),
)


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True, help="inputs that calibrate")
    parser.add_argument("--judge", help="inputs that judge; by default every second run of --data")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--name", help="name of the sections; by default that of the file")
    parser.add_argument("--form", help="int8-static or int8-dynamic; by default what suits")
    parser.add_argument("--bits", default="4.4,8", help="bits per weight of the file")
    parser.add_argument("--range", type=int, default=63, dest="limit")
    parser.add_argument("--write", type=Path, help="document for the table")
    parser.add_argument("--headline", type=Path, help="document for a short table")
    args = parser.parse_args()

    form: Compute = args.form or form_of(load(args.model)) or "int8-dynamic"
    bits = args.bits.split(",")
    labels, counts = measured(
        args.model, args.data, args.judge, args.samples, form=form, bits=bits, limit=args.limit
    )
    note = caption(args.model, form, counts, args.limit)
    name = args.name or args.model.stem
    print(table(labels, short=False) + note)
    if args.write:
        write_section(args.write, f"int8 {name}", table(labels, short=False) + note)
    if args.headline:
        headline = {label: row for label, row in labels.items() if label in list(labels)[:4]}
        write_section(args.headline, f"headline {name}", table(headline, short=True))


def measured(
    model: Path,
    data: str,
    judge: str | None,
    samples: int,
    *,
    form: Compute,
    bits: list[str],
    limit: int,
) -> tuple[dict[str, Row], tuple[int, int]]:
    """Write the files and evaluate them.

    Returns:
        The rows by label, and the numbers of runs that calibrated and that were evaluated.
    """
    feeds = labeled_feeds(model, data, samples)
    judged = labeled_feeds(model, judge, samples) if judge else feeds[1::2]
    calibrating = [without_labels(feed) for feed in (feeds if judge else feeds[::2])]
    metric = [sentence_cosine] if any("mask" in name for name in judged[0]) else []
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(model, Path(folder), form, calibrating, bits, limit)
        rows = evaluate(
            list(files.values())[1:], judged, baseline=model, metric=metric, threads=1
        ).rows
    return dict(zip(files, rows, strict=True)), (len(calibrating), len(judged))


def labeled_feeds(model: Path, data: str, limit: int) -> list[Feed]:
    """Return the inputs of runs of one sample, with the index of its output as "labels"."""
    samples = open_samples(load_model(model, threads=1), data, batch_size=1, limit=limit)
    session: Any = ort.InferenceSession(model)
    name, classes = session.get_inputs()[0].name, session.get_outputs()[0].shape[-1]
    feeds: list[Feed] = []
    for run in samples.feeds():
        feed: Feed = dict(run.feed)
        if samples.dataset is not None and run.samples:
            feed = {name: feed["images"]}
            if run.labels is not None:
                feed["labels"] = samples.targets(run.labels, classes)
        feeds += [feed] if run.samples else []
    return feeds


def without_labels(feed: Feed) -> Feed:
    """Return the inputs of the model alone."""
    return {name: array for name, array in feed.items() if name != "labels"}


def sentence_cosine(outputs: Any, references: Any, feeds: Any) -> list[float]:
    """Return the cosine of each run's mean token to the float model's; padding does not count."""
    cosines = []
    for output, reference, feed in zip(outputs, references, feeds, strict=True):
        mask = padding_mask(feed)
        pair = []
        for found in (output, reference):
            tokens = next(iter(found.values()))
            mean = tokens.mean(axis=1) if mask is None else tokens[mask].mean(axis=0)
            pair.append(mean.reshape(-1).astype(np.float64))
        first, second = pair
        cosines.append(float(first @ second / np.sqrt((first @ first) * (second @ second))))
    return cosines


def make_files(
    model: Path, folder: Path, form: Compute, data: list[Feed], bits: list[str], limit: int
) -> dict[str, Path]:
    """Write the files to compare; return them by label."""
    files = {"float": model}
    baseline = folder / "ort.onnx"
    inputs = calibration_inputs(load(model), data, 10**6)
    request = BaselineRequest(model, baseline, 8, inputs)
    (qdq_channel if form == "int8-static" else dynamic_int8)(request)
    files["ONNX Runtime's int8"] = baseline
    for number in bits:
        calibration = Calibration(data, samples=10**6, target=Target(bits=float(number)))
        kinds: tuple[tuple[str, Compute], ...] = (("", "float"), (" with int8 execution", form))
        for label, compute in kinds:
            path = folder / f"{compute}-{number}.onnx"
            options = Options(compute=compute, int8_range=limit)
            compress(model, path, options, calibration=calibration)
            files[f"qqonnx, {number} bits{label}"] = path
    again = folder / "again.onnx"
    calibration = Calibration(data, samples=10**6, target=Target(bits=float(bits[0])))
    compress(baseline, again, calibration=calibration)
    files[f"ONNX Runtime's int8, then qqonnx to {bits[0]} bits"] = again
    saved = folder / "saved.onnx"
    save_decoded(folder / f"{form}-{bits[0]}.onnx", saved)
    files[f"qqonnx, {bits[0]} bits with int8 execution, saved decoded"] = saved
    return files


def save_decoded(file: Path, saved: Path) -> None:
    """Let ONNX Runtime decode a file and save the result, as docs/deployment.md recommends."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(saved)
    ort.InferenceSession(file, options)


def table(rows: dict[str, Row], *, short: bool) -> str:
    """Return the rows as a Markdown table, with the columns that have numbers."""
    numbers = {label: row.numbers() for label, row in rows.items()}
    shown = [
        column
        for column in COLUMNS
        if (column.short or not short)
        and any(own.get(column.name) is not None for own in numbers.values())
    ]
    lines = [f"| file | {' | '.join(column.title for column in shown)} |"]
    lines.append("|---|" + "---:|" * len(shown))
    lines += [f"| {' | '.join([label, *cells(row, shown)])} |" for label, row in rows.items()]
    return "\n".join(lines) + "\n"


def cells(row: Row, columns: Sequence[Column]) -> list[str]:
    """Return the numbers of a row as text; empty where there is none."""
    numbers = row.numbers()
    values = [(column, numbers.get(column.name)) for column in columns]
    return ["" if value is None else c.form.format(c.factor * value) for c, value in values]


def caption(model: Path, form: str, samples: tuple[int, int], limit: int) -> str:
    """Return what was measured, and on what."""
    return (
        f"\n`{model.name}`, {form}, levels within ±{limit}: calibrated with {samples[0]} runs, "
        f"evaluated on {samples[1]} others. Run and load are times divided by the float model's, "
        f"one thread, one sample. ONNX Runtime {ort.__version__}, {platform.system()} "
        f"{platform.machine()}.\n"
    )


if __name__ == "__main__":
    main()

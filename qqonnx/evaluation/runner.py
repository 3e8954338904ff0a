"""Evaluate models: quality, size, load time and latency, relative to a baseline."""

from __future__ import annotations

import csv
import io
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from qqonnx.evaluation.classifier import open_classifier
from qqonnx.evaluation.score import BATCH_SIZE, score_models
from qqonnx.evaluation.timing import latency_ratios, load_ratios
from qqonnx.evaluation.transfer import brotli_bytes, gzip_bytes, zstd_bytes
from qqonnx.inputs.dataset import batches, first_image, open_dataset
from qqonnx.inputs.preprocessing import for_model, from_json
from qqonnx.model.load import model_files, read
from qqonnx.model.source import ModelSource, model_file, model_list

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qqonnx.evaluation.score import Score


@dataclass(frozen=True)
class Row:
    """Quality and cost of one model.

    Attributes:
        model: the file's name, or "in memory".
        images: number of images.
        top1: share of images that are classified correctly.
        top5: share with the correct class among the first five; None with fewer than 6 classes.
        agreement: share of images that are classified as by the baseline.
        kl: mean KL(baseline || model) in nats.
        bytes: file size, external data included.
        gzip_bytes: file size after gzip.
        brotli_bytes: file size after brotli; None without the package (extra `transfer`).
        zstd_bytes: file size after zstd; None without the package.
        load_ratio: time to load in ONNX Runtime, divided by the baseline's.
        latency_ratio: time of a run with one image, divided by the baseline's.

    Agreement, kl, load_ratio and latency_ratio are None without a baseline.
    """

    model: str
    images: int
    top1: float | None
    top5: float | None
    agreement: float | None
    kl: float | None
    bytes: int
    gzip_bytes: int
    brotli_bytes: int | None
    zstd_bytes: int | None
    load_ratio: float | None
    latency_ratio: float | None


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of several models on one data set.

    Attributes:
        rows: one row per model, the baseline first.
        has_baseline: whether the first row is the baseline.
        preprocessing: the preprocessing of the images, as JSON.
        preprocessing_source: where the preprocessing comes from.
        unreadable: names of image files that were left out.
    """

    rows: tuple[Row, ...]
    has_baseline: bool
    preprocessing: str
    preprocessing_source: str
    unreadable: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation for JSON."""
        return asdict(self)

    def to_csv(self) -> str:
        """Return the rows as CSV with a header line."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        return text.getvalue()

    def table(self) -> Table:
        """Return the rows as a table for the terminal."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("model", overflow="fold")
        # Without their packages these columns would be empty.
        extra = [
            (title, sizes)
            for title, sizes in (
                ("brotli MB", [row.brotli_bytes for row in self.rows]),
                ("zstd MB", [row.zstd_bytes for row in self.rows]),
            )
            if None not in sizes
        ]
        columns = ["top-1 %", "top-5 %", "agree %", "KL nats", "MB", "gzip MB"]
        columns += [title for title, _ in extra] + ["load ×", "run ×"]
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for number, row in enumerate(self.rows):
            label = " (baseline)" if self.has_baseline and number == 0 else ""
            table.add_row(
                row.model + label,
                _text(row.top1, ".2f", 100),
                _text(row.top5, ".2f", 100),
                _text(row.agreement, ".2f", 100),
                _text(row.kl, ".4f"),
                f"{row.bytes / 1e6:.3f}",
                f"{row.gzip_bytes / 1e6:.3f}",
                *(_text(sizes[number], ".3f", 1e-6) for _, sizes in extra),
                _text(row.load_ratio, ".2f"),
                _text(row.latency_ratio, ".2f"),
            )
        return table


def evaluate(
    models: ModelSource | Sequence[ModelSource],
    data: str | os.PathLike[str],
    *,
    baseline: ModelSource | None = None,
    preprocessing: str | None = None,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Evaluation:
    """Evaluate models on labeled images.

    Args:
        models: an ONNX image classifier, or several: paths or models in memory.
        data: a folder with one folder of images per class, or an .npz file.
        baseline: the float model that the others are compared with; a path or a model in memory.
        preprocessing: JSON; by default the preprocessing in the first model's metadata.
        batch_size: number of images per batch.
        limit: largest number of images, evenly spaced; None for all.
        threads: threads of one run; ONNX Runtime's own choice by default.
        progress: called with the number of images of each batch and of the data set.

    Returns:
        A row for each model, the baseline's first. Load times and latencies of all models are
        measured in turns, so they can be compared with each other only.

    Raises:
        QqonnxError: a model does not load or run, there are no images, or the classes do not
            fit the outputs.
    """
    dataset = open_dataset(Path(data), limit)
    given = model_list(models)
    compared = baseline is not None
    if baseline is not None:
        given = [baseline, *(model for model in given if model != baseline)]
    names = [Path(m).name if isinstance(m, (str, os.PathLike)) else "in memory" for m in given]
    with ExitStack() as stack:
        paths = [stack.enter_context(model_file(model)) for model in given]
        classifiers = [open_classifier(path, threads) for path in paths]
        if preprocessing is not None:
            steps, source = from_json(preprocessing), "as given"
        else:
            steps, source = for_model(classifiers[0].metadata, classifiers[0].size)
        scores, unreadable = score_models(
            classifiers, dataset, batches(dataset, steps, batch_size), progress=progress
        )
        loads: list[float] | list[None] = [None] * len(paths)
        latencies: list[float] | list[None] = [None] * len(paths)
        if compared:
            latencies = latency_ratios(classifiers, first_image(dataset, steps))
            loads = load_ratios(paths, threads)
        rows = [
            _row(*entry, compared=compared)
            for entry in zip(names, paths, scores, loads, latencies, strict=True)
        ]
    return Evaluation(tuple(rows), compared, steps.to_json(), source, tuple(unreadable))


def _row(
    name: str,
    path: Path,
    score: Score,
    load_ratio: float | None,
    latency_ratio: float | None,
    *,
    compared: bool,
) -> Row:
    files = model_files(read(path), path)
    return Row(
        model=name,
        images=score.samples,
        top1=score.top1,
        top5=score.top5,
        agreement=score.agreement if compared else None,
        kl=score.kl if compared else None,
        bytes=sum(file.stat().st_size for file in files),
        gzip_bytes=sum(map(gzip_bytes, files)),
        brotli_bytes=total_bytes(files, brotli_bytes),
        zstd_bytes=total_bytes(files, zstd_bytes),
        load_ratio=load_ratio,
        latency_ratio=latency_ratio,
    )


def total_bytes(files: list[Path], compressed: Callable[[Path], int | None]) -> int | None:
    """Return the sum of the files' compressed sizes; None if a size is not known."""
    sizes = [size for file in files if (size := compressed(file)) is not None]
    return sum(sizes) if len(sizes) == len(files) else None


def _text(value: float | None, form: str, factor: float = 1) -> str:
    return "–" if value is None else format(factor * value, form)

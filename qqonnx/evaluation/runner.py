"""Evaluate models on the same images in the same run."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.data import batches, open_dataset, output_indices
from qqonnx.evaluation.metrics import Counts, count
from qqonnx.evaluation.preprocessing import for_model, from_json
from qqonnx.evaluation.session import open_classifier
from qqonnx.evaluation.timing import latency_ratios, load_ratios
from qqonnx.evaluation.transfer import brotli_bytes, gzip_bytes, zstd_bytes
from qqonnx.model.load import model_files, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from qqonnx.evaluation.data import Batch, Dataset
    from qqonnx.evaluation.session import Classifier


@dataclass(frozen=True)
class Row:
    """What one model costs.

    Attributes:
        model: the file's name.
        images: number of images.
        top1: share of images answered right.
        top5: share with the right answer among five; None with fewer than 6 classes.
        agreement: share of images with the baseline's answer.
        kl: mean KL(baseline || model) in nats.
        bytes: file size, external data included.
        gzip_bytes: the same after gzip.
        brotli_bytes: the same after brotli; None without the package (extra `transfer`).
        zstd_bytes: the same after zstd; None without the package.
        load_ratio: time to load in ONNX Runtime over the baseline's.
        latency_ratio: time of a run with one image over the baseline's.

    The last two, agreement and kl are None without a baseline.
    """

    model: str
    images: int
    top1: float
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
    """Several models on one data set.

    Attributes:
        rows: one a model, the baseline first.
        has_baseline: whether the first row is a baseline.
        preprocessing: JSON of what images go through.
        preprocessing_source: where that comes from.
        unreadable: image files that were left out.
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
        # Columns of packages that are not installed would hold nothing.
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
                f"{100 * row.top1:.2f}",
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
    models: Sequence[Path],
    data: Path,
    *,
    baseline: Path | None = None,
    preprocessing: str | None = None,
    batch_size: int = 32,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Evaluation:
    """Run models on labelled images.

    Args:
        models: ONNX image classifiers.
        data: a folder with one folder of images a class, or an .npz file.
        baseline: the float model that the others are compared with.
        preprocessing: JSON; by default what the first model's metadata say.
        batch_size: images in a batch.
        limit: take only this many images, evenly spread.
        threads: threads for one run; ONNX Runtime's own choice by default.
        progress: called with the images of each batch and of the data set.

    Returns:
        A row for each model, the baseline's first; load time and latency are measured here too,
        in turns, so they compare with each other only.

    Raises:
        QqonnxError: a model does not load or run, there are no images, or the classes do not
            fit the outputs.
    """
    dataset = open_dataset(data, limit)
    others = [path for path in models if baseline is None or path != baseline]
    paths = [baseline, *others] if baseline is not None else others
    classifiers = [open_classifier(path, threads) for path in paths]
    if preprocessing is not None:
        chosen, source = from_json(preprocessing), "as given"
    else:
        chosen, source = for_model(classifiers[0].metadata, classifiers[0].size)
    sums, first_image, classes, unreadable = _counted(
        classifiers, baseline is not None, batches(dataset, chosen, batch_size), dataset, progress
    )
    loads: list[float] | list[None] = [None] * len(paths)
    latencies: list[float] | list[None] = [None] * len(paths)
    if baseline is not None:
        latencies = latency_ratios(classifiers, first_image)
        loads = load_ratios(paths, threads)
    compared = baseline is not None
    stored = [model_files(read(path), path) for path in paths]
    rows = tuple(
        Row(
            model=path.name,
            images=total.images,
            top1=total.top1 / total.images,
            top5=total.top5 / total.images if classes > 5 else None,
            agreement=total.agreeing / total.images if compared else None,
            kl=total.kl / total.images if compared else None,
            bytes=sum(file.stat().st_size for file in files),
            gzip_bytes=sum(map(gzip_bytes, files)),
            brotli_bytes=packed_bytes(files, brotli_bytes),
            zstd_bytes=packed_bytes(files, zstd_bytes),
            load_ratio=load_ratio,
            latency_ratio=latency_ratio,
        )
        for path, files, total, load_ratio, latency_ratio in zip(
            paths, stored, sums, loads, latencies, strict=True
        )
    )
    return Evaluation(rows, compared, chosen.to_json(), source, tuple(unreadable))


def packed_bytes(files: list[Path], bytes_of: Callable[[Path], int | None]) -> int | None:
    """Return the size of files together, each compressed; None if one's size is not known."""
    sizes = [size for file in files if (size := bytes_of(file)) is not None]
    return sum(sizes) if len(sizes) == len(files) else None


def _text(value: float | None, form: str, factor: float = 1) -> str:
    return "–" if value is None else format(factor * value, form)


def _counted(
    classifiers: Sequence[Classifier],
    has_baseline: bool,
    images: Iterable[Batch],
    dataset: Dataset,
    progress: Callable[[int, int], None],
) -> tuple[list[Counts], NDArray[np.float32], int, list[str]]:
    """Run all classifiers on one batch after another.

    Returns:
        Counts for each classifier; the first image that could be read, float32 [1, channels,
        height, width]; the number of classes; the image files that could not be read.
    """
    sums = [Counts() for _ in classifiers]
    unreadable: list[str] = []
    classes = 0
    first_image = None
    for batch in images:
        progress(len(batch.images) + len(batch.unreadable), len(dataset.items))
        unreadable.extend(batch.unreadable)
        if not len(batch.images):
            continue
        reference = None
        for number, classifier in enumerate(classifiers):
            outputs = classifier.run(batch.images)
            if first_image is None:
                first_image = batch.images[:1]
                classes = outputs.shape[1]
            if outputs.shape[1] != classes:
                raise QqonnxError(
                    f"{classifier.path}: {outputs.shape[1]} outputs, the first model has {classes}"
                )
            answers = output_indices(dataset, classes)[batch.labels]
            if number == 0 and has_baseline:
                reference = outputs
            sums[number] += count(outputs, answers, reference)
    if first_image is None:
        raise QqonnxError(f"{dataset.path}: none of its {len(dataset.items)} images can be read")
    return sums, first_image, classes, unreadable

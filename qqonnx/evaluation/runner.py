"""Evaluate models: quality, size, load time and latency, relative to a baseline."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.errors import OptionError
from qqonnx.evaluation.loaded import load_model
from qqonnx.evaluation.plugins import Metric, find_metric, measure, needs, of_runs
from qqonnx.evaluation.results import Evaluation, Row, worst
from qqonnx.evaluation.samples import BATCH_SIZE, first_feed, open_samples
from qqonnx.evaluation.score import score_models
from qqonnx.evaluation.timing import latency_ratios, load_ratios
from qqonnx.evaluation.transfer import brotli_bytes, gzip_bytes, zstd_bytes
from qqonnx.model.load import model_files, read
from qqonnx.model.session import custom_operators
from qqonnx.model.source import ModelSource, model_file, model_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qqonnx.evaluation.loaded import LoadedModel
    from qqonnx.evaluation.plugins import AnyMetric, MetricValue
    from qqonnx.evaluation.samples import Samples
    from qqonnx.evaluation.score import Score, Scores
    from qqonnx.inputs.read import InputData


def evaluate(
    models: ModelSource | Sequence[ModelSource],
    data: InputData | None = None,
    *,
    baseline: ModelSource | None = None,
    metric: AnyMetric | Sequence[AnyMetric] = (),
    preprocessing: str | None = None,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    threads: int | None = None,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Evaluation:
    """Evaluate models of any kind on the same samples.

    Args:
        models: an ONNX model, or several: paths or models in memory.
        data: a folder of images, with one folder per class if they have labels; an .npz file with
            `images` uint8 and perhaps `labels`; an .npy or .npz file with stacked inputs; a folder
            of .npz files with the inputs of one run each; "module:function", a function that
            yields such inputs; or an iterable of them. None if only metrics of a session or a
            path are measured.
        baseline: the float model that the others are compared with; a path or a model in memory.
        metric: a metric of the user, or several: "module:function", the name of an entry point of
            the group `qqonnx.metrics`, a function, or a `Metric`.
        preprocessing: JSON of the preprocessing of images; by default that in the first model's
            metadata.
        batch_size: number of images per run.
        limit: largest number of samples, evenly spaced for images; None for all.
        threads: threads of one run; ONNX Runtime's own choice by default.
        custom_ops: libraries of custom operators, registered in every session of ONNX Runtime.
        progress: called with the number of samples of each run and of the data.

    Returns:
        A row for each model, the baseline's first. Load times and latencies of all models are
        measured in turns, so they can be compared with each other only.

    Raises:
        QqonnxError: a model does not load or run, the data cannot be read or do not fit, a metric
            fails, or there is nothing to measure.
    """
    metrics = _metrics(metric)
    if data is None and (not metrics or needs(metrics, "outputs", "references", "feeds", "labels")):
        raise OptionError("data", "is needed, except for metrics of a session or a path alone")
    given = model_list(models)
    compared = baseline is not None
    if baseline is not None:
        given = [baseline, *(model for model in given if model != baseline)]
    names = [Path(m).name if isinstance(m, (str, os.PathLike)) else "in memory" for m in given]
    with ExitStack() as stack:
        stack.enter_context(custom_operators(custom_ops))
        paths = [stack.enter_context(model_file(model)) for model in given]
        loaded = [load_model(path, threads) for path in paths]
        samples, scores = None, None
        if data is not None:
            samples = open_samples(
                loaded[0], data, preprocessing=preprocessing, batch_size=batch_size, limit=limit
            )
            keep = needs(metrics, "outputs", "references", "feeds", "labels")
            scores = score_models(loaded, samples, keep=keep, progress=progress)
            _check_measures(scores, metrics, compared=compared)
        values = [
            _measured(metrics, number, model, scores, compared=compared)
            for number, model in enumerate(loaded)
        ]
        loads: list[float] | list[None] = [None] * len(paths)
        latencies: list[float] | list[None] = [None] * len(paths)
        if compared:
            loads = load_ratios(paths, threads)
            if samples is not None:
                latencies = latency_ratios(loaded, first_feed(samples))
        rows = tuple(
            _row(
                name,
                path,
                None if scores is None else scores.scores[number],
                values[number],
                (loads[number], latencies[number]),
                compared=compared,
                is_baseline=compared and number == 0,
            )
            for number, (name, path) in enumerate(zip(names, paths, strict=True))
        )
    return _evaluation(rows, samples, scores, has_baseline=compared)


def _metrics(given: AnyMetric | Sequence[AnyMetric]) -> list[Metric]:
    if isinstance(given, (str, Metric)) or callable(given):
        given = [given]
    metrics = [find_metric(entry) for entry in given]
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise OptionError("metric", f"two metrics have the name {name}")
        if name in Row.__dataclass_fields__:
            raise OptionError("metric", f"{name} is the name of another number")
    return metrics


def _check_measures(scores: Scores, metrics: Sequence[Metric], *, compared: bool) -> None:
    if compared or metrics or scores.scores[0].top1 is not None:
        return
    reason = scores.notes[0] if scores.notes else "the data have no labels"
    raise OptionError("baseline", f"is needed, because {reason}")


def _measured(
    metrics: Sequence[Metric],
    number: int,
    model: LoadedModel,
    scores: Scores | None,
    *,
    compared: bool,
) -> dict[str, MetricValue]:
    """Return the values of the metrics for one model, by name."""
    given: dict[str, Any] = {"session": model.session, "path": model.path}
    if scores is not None and scores.runs:
        references = scores.outputs[0] if compared else None
        feeds = [run.everything for run in scores.runs]
        given |= of_runs(scores.outputs[number], references, feeds)
    return {metric.name: measure(metric, given) for metric in metrics}


def _row(
    name: str,
    path: Path,
    score: Score | None,
    values: Mapping[str, MetricValue],
    ratios: tuple[float | None, float | None],
    *,
    compared: bool,
    is_baseline: bool,
) -> Row:
    files = model_files(read(path), path)
    outputs = score.outputs if score is not None and compared else ()
    intervals = {} if score is None else dict(score.intervals)
    if not compared or is_baseline:
        intervals.pop("agreement", None)
    measured = {n: value.interval for n, value in values.items() if value.interval is not None}
    return Row(
        model=name,
        samples=0 if score is None else score.samples,
        top1=None if score is None else score.top1,
        top5=None if score is None else score.top5,
        **worst(outputs),
        bytes=sum(file.stat().st_size for file in files),
        gzip_bytes=sum(map(gzip_bytes, files)),
        brotli_bytes=total_bytes(files, brotli_bytes),
        zstd_bytes=total_bytes(files, zstd_bytes),
        load_ratio=ratios[0],
        latency_ratio=ratios[1],
        metrics={n: value.value for n, value in values.items()},
        intervals={**intervals, **measured},
        outputs=outputs,
    )


def _evaluation(
    rows: tuple[Row, ...], samples: Samples | None, scores: Scores | None, *, has_baseline: bool
) -> Evaluation:
    if samples is None or scores is None:
        return Evaluation(rows, has_baseline, "", "", "", ())
    count = rows[0].samples
    return Evaluation(
        rows=rows,
        has_baseline=has_baseline,
        data=f"{count} {samples.unit} of {samples.name}",
        preprocessing="" if samples.preprocessing is None else samples.preprocessing.to_json(),
        preprocessing_source=samples.preprocessing_source,
        unreadable=scores.unreadable,
        notes=scores.notes,
    )


def total_bytes(files: list[Path], compressed: Callable[[Path], int | None]) -> int | None:
    """Return the sum of the files' compressed sizes; None if a size is not known."""
    sizes = [size for file in files if (size := compressed(file)) is not None]
    return sum(sizes) if len(sizes) == len(files) else None

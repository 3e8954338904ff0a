"""Score and timings of a run's model, relative to the float model."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qqonnx.evaluation.loaded import load_model
from qqonnx.evaluation.plugins import find_metric, measure, of_runs
from qqonnx.evaluation.samples import (
    BATCH_SIZE,
    first_feed,
    holds_images,
    image_samples,
    open_samples,
)
from qqonnx.evaluation.score import reference_outputs, score_models
from qqonnx.evaluation.timing import latency_ratios, load_ratios
from qqonnx.inputs.dataset import batches, open_dataset
from qqonnx.inputs.preprocessing import for_model
from qqonnx.sweep.splits import evaluation_split

if TYPE_CHECKING:
    from pathlib import Path

    from qqonnx.evaluation.loaded import LoadedModel, Outputs
    from qqonnx.evaluation.samples import Samples
    from qqonnx.evaluation.score import Score
    from qqonnx.sweep.grid import Run
    from qqonnx.sweep.sources import Source


def score_run(path: Path, run: Run) -> tuple[Score, dict[str, Any]]:
    """Score a model on the evaluation samples of `run`; the float model is the reference.

    Returns:
        The score, and for each metric of the user by name its `value`, `low` and `high` of the 95 %
        confidence interval or None, and `higher_is_better`.

    Raises:
        QqonnxError: the model does not load or run, no sample can be read, the outputs do not fit
            those of the float model, or a metric fails.
    """
    samples, references = _reference(run.model, run.dataset, run.reserved, run.samples, run.threads)
    model = load_model(path, run.threads)
    metrics = [find_metric(source.function) for source in run.metrics if source.function]
    result = score_models([model], samples, reference=references, keep=bool(metrics))
    given: dict[str, Any] = {"session": model.session, "path": path}
    if metrics:
        feeds = [entry.everything for entry in result.runs]
        given |= of_runs(result.outputs[0], references, feeds)
    values = {}
    for metric in metrics:
        measured = measure(metric, given)
        low, high = measured.interval or (None, None)
        better = metric.higher_is_better
        values[metric.name] = {
            "value": measured.value,
            "low": low,
            "high": high,
            "higher_is_better": better,
        }
    return result.scores[0], values


def time_ratios(path: Path, run: Run, repeats: int) -> tuple[float, float]:
    """Return load time and latency divided by the float model's, each the median of `repeats`."""
    paths = (run.model.path, path)
    models = [load_model(entry, run.threads) for entry in paths]
    feed = first_feed(open_samples(models[0], run.dataset.data))
    latencies = sorted(latency_ratios(models, feed)[1] for _ in range(repeats))
    loads = sorted(load_ratios(paths, run.threads)[1] for _ in range(repeats))
    return loads[repeats // 2], latencies[repeats // 2]


# Runs are ordered by model and data set, so a worker needs few references at a time.
@lru_cache(maxsize=2)
def _reference(
    source: Source, dataset: Source, reserved: int, count: int | None, threads: int
) -> tuple[Samples, list[Outputs]]:
    """Return the samples, and the float model's outputs for each run."""
    model = load_model(source.path, threads)
    samples = _samples(model, dataset, reserved, count)
    return samples, reference_outputs(model, samples)


def _samples(model: LoadedModel, source: Source, reserved: int, count: int | None) -> Samples:
    if not holds_images(source.data):
        return open_samples(model, source.data, limit=count)
    dataset = open_dataset(source.path, labels_required=False)
    dataset = evaluation_split(dataset, reserved, count)
    steps, _ = for_model(model.metadata, model.size)
    size = model.batch or BATCH_SIZE
    return image_samples(dataset, lambda: batches(dataset, steps, size))

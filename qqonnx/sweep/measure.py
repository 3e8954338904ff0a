"""Score and timings of a run's model, relative to the float model."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from qqonnx.evaluation.loaded import load_model
from qqonnx.evaluation.samples import BATCH_SIZE, first_feed, image_samples, open_samples
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
    from qqonnx.sweep.grid import Run, Source


def score_run(path: Path, run: Run) -> Score:
    """Score a model on the evaluation images of `run`; the float model is the reference.

    Raises:
        QqonnxError: the model does not load or run, no image can be read, or the outputs do not
            fit those of the float model.
    """
    samples, outputs = _reference(run.model, run.dataset, run.reserved, run.samples, run.threads)
    model = load_model(path, run.threads)
    (score,) = score_models([model], samples, reference=outputs).scores
    return score


def time_ratios(path: Path, run: Run, repeats: int) -> tuple[float, float]:
    """Return load time and latency divided by the float model's, each the median of `repeats`."""
    paths = (run.model.path, path)
    models = [load_model(entry, run.threads) for entry in paths]
    feed = first_feed(open_samples(models[0], run.dataset.path))
    latencies = sorted(latency_ratios(models, feed)[1] for _ in range(repeats))
    loads = sorted(load_ratios(paths, run.threads)[1] for _ in range(repeats))
    return loads[repeats // 2], latencies[repeats // 2]


# Runs are ordered by model and data set, so a worker needs few references at a time.
@lru_cache(maxsize=2)
def _reference(
    source: Source, images: Source, reserved: int, count: int | None, threads: int
) -> tuple[Samples, list[Outputs]]:
    """Return the samples, and the float model's outputs for each run."""
    model = load_model(source.path, threads)
    samples = _samples(model, images.path, reserved, count)
    return samples, reference_outputs(model, samples)


def _samples(model: LoadedModel, data: Path, reserved: int, count: int | None) -> Samples:
    dataset = evaluation_split(open_dataset(data, labels_required=False), reserved, count)
    steps, _ = for_model(model.metadata, model.size)
    size = model.batch or BATCH_SIZE
    return image_samples(dataset, lambda: batches(dataset, steps, size))

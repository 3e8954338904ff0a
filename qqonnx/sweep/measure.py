"""Score and timings of a run's model, relative to the float model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qqonnx.evaluation.classifier import open_classifier
from qqonnx.evaluation.score import BATCH_SIZE, reference_outputs, score_models
from qqonnx.evaluation.timing import latency_ratios, load_ratios
from qqonnx.inputs.dataset import batches, first_image, open_dataset
from qqonnx.inputs.preprocessing import for_model
from qqonnx.sweep.splits import evaluation_split

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from qqonnx.evaluation.score import Score
    from qqonnx.inputs.dataset import Dataset
    from qqonnx.inputs.preprocessing import Preprocessing
    from qqonnx.sweep.grid import Run, Source


@dataclass(frozen=True)
class _Reference:
    dataset: Dataset
    preprocessing: Preprocessing
    outputs: list[NDArray[Any]]  # of the float model, [n, classes] for each batch


def score_run(path: Path, run: Run) -> Score:
    """Score a model on the evaluation images of `run`; the float model is the reference.

    Raises:
        QqonnxError: the model does not load or run, no image can be read, or the classes do not
            fit.
    """
    reference = _reference(run.model, run.dataset, run.reserved, run.samples, run.threads)
    images = batches(reference.dataset, reference.preprocessing, BATCH_SIZE)
    classifier = open_classifier(path, run.threads)
    (score,), _ = score_models([classifier], reference.dataset, images, reference=reference.outputs)
    return score


def time_ratios(path: Path, run: Run, repeats: int) -> tuple[float, float]:
    """Return load time and latency divided by the float model's, each the median of `repeats`."""
    paths = (run.model.path, path)
    classifiers = [open_classifier(entry, run.threads) for entry in paths]
    preprocessing, _ = for_model(classifiers[0].metadata, classifiers[0].size)
    image = first_image(open_dataset(run.dataset.path, labels_required=False), preprocessing)
    latencies = sorted(latency_ratios(classifiers, image)[1] for _ in range(repeats))
    loads = sorted(load_ratios(paths, run.threads)[1] for _ in range(repeats))
    return loads[repeats // 2], latencies[repeats // 2]


# Runs are ordered by model and data set, so a worker needs few references at a time.
@lru_cache(maxsize=2)
def _reference(
    model: Source, images: Source, reserved: int, samples: int | None, threads: int
) -> _Reference:
    dataset = open_dataset(images.path, labels_required=False)
    dataset = evaluation_split(dataset, reserved, samples)
    classifier = open_classifier(model.path, threads)
    preprocessing, _ = for_model(classifier.metadata, classifier.size)
    outputs = reference_outputs(classifier, batches(dataset, preprocessing, BATCH_SIZE))
    return _Reference(dataset, preprocessing, outputs)

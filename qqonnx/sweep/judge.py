"""How a model answers, against labels and against the float model's answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.data import Batch, batches, output_indices
from qqonnx.evaluation.metrics import Counts, count
from qqonnx.evaluation.preprocessing import for_model
from qqonnx.evaluation.session import open_classifier
from qqonnx.evaluation.timing import latency_ratios, load_ratios
from qqonnx.sweep.images import judging, open_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from qqonnx.evaluation.data import Dataset
    from qqonnx.evaluation.preprocessing import Preprocessing
    from qqonnx.sweep.grid import Run, Source

BATCH = 32


@dataclass(frozen=True)
class Verdict:
    """How good a model's answers are.

    Attributes:
        samples: images judged.
        top1: share answered right; None without labels.
        top5: share with the right answer among five; None without, or with fewer than 6 classes.
        agreement: share with the float model's answer.
        kl: mean KL(float model || model) in nats.
    """

    samples: int
    top1: float | None
    top5: float | None
    agreement: float
    kl: float


@dataclass(frozen=True)
class _Reference:
    dataset: Dataset
    labelled: bool
    preprocessing: Preprocessing
    outputs: tuple[NDArray[Any], ...]  # of each batch, [n, classes]


def judge(path: Path, run: Run) -> Verdict:
    """Run a model on the images of `run`.

    Raises:
        QqonnxError: it does not load or run, no image can be read, or classes do not fit.
    """
    reference = _reference(run.model, run.dataset, run.apart, run.samples, run.threads)
    classifier = open_classifier(path, run.threads)
    total, classes = Counts(), 0
    found = _readable(reference.dataset, reference.preprocessing)
    for batch, expected in zip(found, reference.outputs, strict=True):
        outputs = classifier.run(batch.images)
        classes = expected.shape[1]
        if outputs.shape != expected.shape:
            raise QqonnxError(f"{path}: {outputs.shape[1]} outputs, the float model has {classes}")
        answers = batch.labels
        if reference.labelled:
            answers = output_indices(reference.dataset, classes)[batch.labels]
        total += count(outputs, answers, expected)
    labelled = reference.labelled
    return Verdict(
        samples=total.images,
        top1=total.top1 / total.images if labelled else None,
        top5=total.top5 / total.images if labelled and classes > 5 else None,
        agreement=total.agreeing / total.images,
        kl=total.kl / total.images,
    )


def time_ratios(path: Path, run: Run, repeats: int) -> tuple[float, float]:
    """Return load time and latency over the float model's, the medians of `repeats`."""
    dataset, _ = open_images(run.dataset.path)
    paths = (run.model.path, path)
    classifiers = [open_classifier(entry, run.threads) for entry in paths]
    preprocessing, _ = for_model(classifiers[0].metadata, classifiers[0].size)
    image = next(iter(_readable(dataset, preprocessing))).images[:1]
    latencies = sorted(latency_ratios(classifiers, image)[1] for _ in range(repeats))
    loads = sorted(load_ratios(paths, run.threads)[1] for _ in range(repeats))
    return loads[repeats // 2], latencies[repeats // 2]


# One model and data set after another: what a process met last it meets again.
@lru_cache(maxsize=2)
def _reference(
    model: Source, images: Source, apart: int, samples: int | None, threads: int
) -> _Reference:
    everything, labelled = open_images(images.path)
    dataset = judging(everything, apart, samples)
    classifier = open_classifier(model.path, threads)
    preprocessing, _ = for_model(classifier.metadata, classifier.size)
    found = _readable(dataset, preprocessing)
    outputs = tuple(classifier.run(batch.images) for batch in found)
    if not outputs:
        raise QqonnxError(f"{images.path}: none of its {len(dataset.items)} images can be read")
    return _Reference(dataset, labelled, preprocessing, outputs)


def _readable(dataset: Dataset, preprocessing: Preprocessing) -> Iterator[Batch]:
    return (b for b in batches(dataset, preprocessing, BATCH) if len(b.images))

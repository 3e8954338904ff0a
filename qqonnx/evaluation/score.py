"""The evaluation loop: run models on batches of images and score their outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.metrics import Counts, count
from qqonnx.inputs.dataset import output_indices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from qqonnx.evaluation.classifier import Classifier
    from qqonnx.inputs.dataset import Batch, Dataset

BATCH_SIZE = 32


@dataclass(frozen=True)
class Score:
    """Quality of a model's outputs; a metric that cannot be computed is None.

    Attributes:
        samples: number of samples.
        top1: share of samples with the correct class first; None without labels.
        top5: share with the correct class among the first five; None without labels or with
            fewer than 6 classes.
        agreement: share of samples where the model and the reference predict the same class.
        kl: mean KL(reference || model) in nats.
    """

    samples: int
    top1: float | None
    top5: float | None
    agreement: float | None
    kl: float | None


def score_models(
    models: Sequence[Classifier],
    dataset: Dataset,
    batches: Iterable[Batch],
    *,
    reference: Iterable[NDArray[Any]] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[list[Score], list[str]]:
    """Run models on the same images and compare their outputs with labels and a reference.

    Args:
        models: the models; each runs on one batch before the next batch is read.
        dataset: the images, with or without labels.
        batches: the images of `dataset`, preprocessed.
        reference: outputs [n, classes] of the reference model for each batch, from
            `reference_outputs`; by default the first model is the reference.
        progress: called with the number of images of each batch and of the data set.

    Returns:
        A score for each model, and the names of image files that could not be read.

    Raises:
        QqonnxError: a model does not run, no image can be read, or the numbers of outputs or
            classes do not fit.
    """
    totals = [Counts()] * len(models)
    unreadable: list[str] = []
    stored = None if reference is None else iter(reference)
    classes, indices = 0, None
    for batch in batches:
        progress(len(batch.images) + len(batch.unreadable), len(dataset.items))
        unreadable.extend(batch.unreadable)
        if not len(batch.images):
            continue
        outputs = [model.run(batch.images) for model in models]
        expected = outputs[0] if stored is None else next(stored)
        classes = expected.shape[1]
        for model, output in zip(models, outputs, strict=True):
            if output.shape != expected.shape:
                raise QqonnxError(
                    f"{model.path}: {output.shape[1]} outputs, but the model that it is compared "
                    f"with has {classes}"
                )
        targets = None
        if batch.labels is not None:
            indices = output_indices(dataset, classes) if indices is None else indices
            targets = indices[batch.labels]
        totals = [
            total + count(output, targets, expected)
            for total, output in zip(totals, outputs, strict=True)
        ]
    if not classes:
        raise QqonnxError(f"{dataset.path}: none of its {len(dataset.items)} images can be read")
    return [_score(total, classes, dataset.labels is not None) for total in totals], unreadable


def reference_outputs(model: Classifier, batches: Iterable[Batch]) -> list[NDArray[Any]]:
    """Return the outputs [n, classes] of a model for each batch, as `score_models` takes them."""
    return [model.run(batch.images) for batch in batches if len(batch.images)]


def _score(total: Counts, classes: int, labeled: bool) -> Score:
    return Score(
        samples=total.samples,
        top1=total.top1 / total.samples if labeled else None,
        top5=total.top5 / total.samples if labeled and classes > 5 else None,
        agreement=total.agreeing / total.samples,
        kl=total.kl / total.samples,
    )

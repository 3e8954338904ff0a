"""The evaluation loop: run models on samples and compare their outputs with a reference's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.intervals import wilson
from qqonnx.evaluation.metrics import top_counts
from qqonnx.evaluation.quality import compare_run
from qqonnx.inputs.masks import padding_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.evaluation.intervals import Interval
    from qqonnx.evaluation.loaded import LoadedModel, Outputs
    from qqonnx.evaluation.quality import OutputQuality, OutputSums
    from qqonnx.evaluation.samples import LabeledFeed, Samples


@dataclass(frozen=True)
class Score:
    """Quality of a model's outputs; a metric that cannot be computed is None.

    Attributes:
        samples: number of samples.
        top1: share of samples with the correct class first; None without labels.
        top5: share with the correct class among the first five; None without labels or with
            fewer than 6 classes.
        outputs: each output compared with the reference's.
    """

    samples: int
    top1: float | None
    top5: float | None
    outputs: tuple[OutputQuality, ...]

    @property
    def agreement(self) -> float | None:
        """Smallest agreement of an output that makes decisions."""
        shares = [o.agreement for o in self.outputs if o.agreement is not None]
        return min(shares, default=None)

    @property
    def kl(self) -> float | None:
        """Largest KL divergence of an output, in nats."""
        return max((o.kl for o in self.outputs if o.kl is not None), default=None)

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % confidence intervals of the shares, by name."""
        shares = {"top1": self.top1, "top5": self.top5}
        found = {n: wilson(s, self.samples) for n, s in shares.items() if s is not None}
        for output in self.outputs:
            if output.agreement is not None and output.agreement == self.agreement:
                assert output.agreement_interval is not None
                found["agreement"] = output.agreement_interval
        return found


@dataclass(frozen=True)
class Scores:
    """Result of the evaluation loop.

    Attributes:
        scores: the score of each model.
        unreadable: names of image files that could not be read.
        notes: what the loop left out, and why.
        runs: inputs of each run, if they were to be kept.
        outputs: outputs of each model for each run, if they were to be kept.
    """

    scores: tuple[Score, ...]
    unreadable: tuple[str, ...]
    notes: tuple[str, ...]
    runs: tuple[LabeledFeed, ...] = ()
    outputs: tuple[tuple[Outputs, ...], ...] = ()


@dataclass(frozen=True)
class _Sums:
    """Sums of one model over runs, which can be added up.

    Attributes:
        outputs: differences of each output from the reference's.
        reshaped: number of runs in which an output has another shape than the reference's.
        top1: samples whose largest output is the correct one.
        top5: samples whose correct output is among the five largest ones.
    """

    outputs: Mapping[str, OutputSums] = field(default_factory=dict)
    reshaped: Counter[str] = field(default_factory=Counter)
    top1: int = 0
    top5: int = 0

    def __add__(self, other: _Sums) -> _Sums:
        outputs = dict(self.outputs)
        for name, sums in other.outputs.items():
            outputs[name] = outputs[name] + sums if name in outputs else sums
        return _Sums(
            outputs,
            self.reshaped + other.reshaped,
            self.top1 + other.top1,
            self.top5 + other.top5,
        )


def score_models(
    models: Sequence[LoadedModel],
    samples: Samples,
    *,
    reference: Iterable[Outputs] | None = None,
    keep: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Scores:
    """Run models on the same samples and compare their outputs with labels and a reference.

    Args:
        models: the models; each runs on the inputs of one run before the next are read.
        samples: the samples, with or without labels.
        reference: outputs of the reference model for each run, from `reference_outputs`; by
            default the first model is the reference.
        keep: keep the inputs and outputs of all runs.
        progress: called with the number of samples of each run and of all runs.

    Raises:
        QqonnxError: a model does not run, no image can be read, or an output has another number
            of classes than the reference.
    """
    totals = [_Sums()] * len(models)
    stored = None if reference is None else iter(reference)
    unreadable: list[str] = []
    runs: list[LabeledFeed] = []
    kept: list[list[Outputs]] = [[] for _ in models]
    count = classes = 0
    labels_refused: str | None = None
    for run in samples.feeds():
        progress(run.samples + len(run.unreadable), samples.count)
        unreadable.extend(run.unreadable)
        if not run.samples:
            continue
        outputs = [model.run(run.feed) for model in models]
        expected = outputs[0] if stored is None else next(stored)
        count += run.samples
        mask = padding_mask(run.feed)
        sums = [_compared(m, expected, o, mask) for m, o in zip(models, outputs, strict=True)]
        if run.labels is not None and labels_refused is None:
            try:
                correct = [_correct(output, run, samples) for output in outputs]
            except QqonnxError as error:
                labels_refused = str(error)
            else:
                classes = correct[0][2]
                sums = [
                    replace(entry, top1=top1, top5=top5)
                    for entry, (top1, top5, _) in zip(sums, correct, strict=True)
                ]
        totals = [total + entry for total, entry in zip(totals, sums, strict=True)]
        if keep:
            runs.append(run)
            for entries, output in zip(kept, outputs, strict=True):
                entries.append(output)
    if not count:
        raise QqonnxError(f"{samples.name}: none of its {samples.count} images can be read")
    labeled = classes > 0 and labels_refused is None
    notes = [f"labels are not used: {labels_refused}"] if labels_refused is not None else []
    for model, total in zip(models, totals, strict=True):
        notes += [
            f"{model.path.name}: output {name!r} has another shape in {number} runs, not compared"
            for name, number in total.reshaped.items()
        ]
    scores = tuple(_score(total, count, labeled=labeled, classes=classes) for total in totals)
    return Scores(
        scores, tuple(unreadable), tuple(notes), tuple(runs), tuple(tuple(entry) for entry in kept)
    )


def reference_outputs(model: LoadedModel, samples: Samples) -> list[Outputs]:
    """Return the outputs of a model for each run, as `score_models` takes them."""
    return [model.run(run.feed) for run in samples.feeds() if run.samples]


def class_outputs(outputs: Mapping[str, Any], samples: int) -> NDArray[Any] | None:
    """Return the first output that has one value per class and sample: [samples, classes].

    Axes of size 1 do not count.
    """
    for output in outputs.values():
        if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.ndim < 2:
            continue
        if len(output) == samples and output.size == samples * max(output.shape[1:]):
            return output.reshape(samples, -1)
    return None


def _compared(
    model: LoadedModel, expected: Outputs, outputs: Outputs, mask: NDArray[np.bool_] | None
) -> _Sums:
    """Return the differences of one run."""
    compared: dict[str, OutputSums] = {}
    reshaped: Counter[str] = Counter()
    for (name, reference), output in zip(expected.items(), outputs.values(), strict=False):
        if not _is_numeric(reference) or not _is_numeric(output):
            continue
        if reference.shape != output.shape:
            if reference.ndim == output.ndim == 2 and len(reference) == len(output):
                raise QqonnxError(
                    f"{model.path}: {output.shape[1]} outputs, but the model that it is compared "
                    f"with has {reference.shape[1]}"
                )
            reshaped[name] += 1
        elif reference.size:
            compared[name] = compare_run(reference, output, name, mask)
    return _Sums(compared, reshaped)


def _is_numeric(output: Any) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind in "fiub"


def _correct(outputs: Outputs, run: LabeledFeed, samples: Samples) -> tuple[int, int, int]:
    """Return the correct answers of one run: (first, among the first five, number of classes).

    Raises:
        QqonnxError: the model has no output for the labels.
    """
    assert run.labels is not None
    answers = class_outputs(outputs, run.samples)
    if answers is None:
        raise QqonnxError(f"{samples.name}: the model has no output [samples, classes]")
    classes = answers.shape[1]
    return (*top_counts(answers, samples.targets(run.labels, classes)), classes)


def _score(total: _Sums, count: int, *, labeled: bool, classes: int) -> Score:
    return Score(
        samples=count,
        top1=total.top1 / count if labeled else None,
        top5=total.top5 / count if labeled and classes > 5 else None,
        outputs=tuple(sums.quality(name) for name, sums in total.outputs.items()),
    )

"""What the levels of an allocation lose: a share of the answers, or of a metric."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from qqonnx.calibration.measure import is_replaceable
from qqonnx.calibration.passes import map_with_moments
from qqonnx.calibration.quantize import quantize_matrix
from qqonnx.calibration.sensitivity import judged_indices
from qqonnx.calibration.session import extended_session
from qqonnx.encoding.rewrite import rewrite
from qqonnx.errors import OptionError
from qqonnx.evaluation.intervals import mean_interval
from qqonnx.evaluation.plugins import metric_values, of_runs
from qqonnx.evaluation.quality import compare_run
from qqonnx.inputs.masks import padding_mask
from qqonnx.model.session import open_session, run_session
from qqonnx.model.source import model_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.allocation import Allocation
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.calibration.measure import Measurements
    from qqonnx.calibration.moments import Moments
    from qqonnx.calibration.passes import MomentPasses
    from qqonnx.encoding.stored import StoredWeight
    from qqonnx.evaluation.intervals import Interval
    from qqonnx.evaluation.plugins import Metric
    from qqonnx.evaluation.quality import OutputSums

    Outputs = dict[str, Any]
    Judge = Callable[[Allocation], "Drop"]
    Encode = Callable[[Allocation], Sequence[StoredWeight]]

ANSWERS = "answers"

SAMPLES = 128
"""Largest number of samples that are held out to judge an allocation."""


@dataclass(frozen=True)
class Drop:
    """What the weights of an allocation lose.

    Attributes:
        metric: name of the metric; `ANSWERS` for the share of answers that change.
        lost: share of the answers that change, or of the float model's value that is lost.
        interval: 95 % confidence interval of `lost`; None for a metric that is a single number.
        samples: number of samples, or of runs, that no weight was fitted to; 0 for a metric that
            brings its own.
    """

    metric: str
    lost: float
    interval: Interval | None
    samples: int


@contextmanager
def judged_outputs(
    context: Context,
    weights: Sequence[WeightMatrix],
    passes: MomentPasses,
    measurements: Measurements,
    metric: Metric | None,
) -> Iterator[Judge]:
    """Provide a function that judges an allocation by the outputs for held-out samples.

    Args:
        context: the model and its inputs.
        weights: the weights.
        passes: the second moments.
        measurements: the shrinkage of the moments.
        metric: a metric of outputs; None for the share of answers that change.
    """
    replaceable = [weight for weight in weights if is_replaceable(weight, context)]
    indices = judged_indices(context.inputs, SAMPLES)
    feeds = [context.inputs.feeds[index] for index in indices]
    others = [context.inputs.others[index] if context.inputs.others else {} for index in indices]
    everything = [{**feed, **other} for feed, other in zip(feeds, others, strict=True)]
    inputs = [weight.weight.value for weight in replaceable]
    with extended_session(context.model, inputs=inputs) as session:
        names = [out.name for out in session.get_outputs() if out.type.startswith("tensor(")]

        def run(replaced: Mapping[str, NDArray[Any]]) -> list[Outputs]:
            runs = (run_session(session, {**feed, **replaced}, names) for feed in feeds)
            return [dict(zip(names, outputs, strict=True)) for outputs in runs]

        references = run({})
        exact = None
        if metric is not None:
            given = of_runs(references, references, everything)
            exact = _checked(metric, metric_values(metric, given))

        def judge(allocation: Allocation) -> Drop:
            values = _half_fitted(context, replaceable, passes, measurements, allocation)
            outputs = run(values)
            if metric is None or exact is None:
                return _changed_answers(feeds, references, outputs)
            found = metric_values(metric, of_runs(outputs, references, everything))
            return _lost(metric, exact, found, len(feeds))

        yield judge


@contextmanager
def judged_files(context: Context, metric: Metric, encode: Encode) -> Iterator[Judge]:
    """Provide a function that judges an allocation by the file of the model.

    Args:
        context: the model.
        metric: a metric of a session or a path.
        encode: function that returns the stored weights of an allocation.
    """

    def measured(model: ir.Model) -> NDArray[np.float64]:
        with model_file(model) as path:
            return metric_values(metric, {"session": open_session(path), "path": path})

    exact = _checked(metric, measured(context.model))

    def judge(allocation: Allocation) -> Drop:
        model = context.model.clone()
        rewrite(model, encode(allocation))
        return _lost(metric, exact, measured(model), 0)

    yield judge


def _changed_answers(
    feeds: Sequence[Mapping[str, Any]], references: Sequence[Outputs], outputs: Sequence[Outputs]
) -> Drop:
    """Return the largest share of decisions of an output that change.

    Raises:
        OptionError: no output makes decisions.
    """
    masks = [padding_mask(feed) for feed in feeds]
    compared: list[OutputSums] = []
    for name in references[0]:
        runs = zip(references, outputs, masks, strict=True)
        pairs = [(exact[name], other[name], mask) for exact, other, mask in runs]
        if all(a.size and a.dtype.kind in "fiub" and a.shape == b.shape for a, b, _ in pairs):
            sums = reduce(add, (compare_run(a, b, name, mask) for a, b, mask in pairs))
            if sums.decisions is not None:
                compared.append(sums)
    if not compared:
        raise OptionError(
            "target.max_drop",
            "no output of the model tells classes apart: a metric must say what may be lost",
        )
    worst = min((sums.quality(ANSWERS) for sums in compared), key=lambda q: q.agreement or 0)
    assert worst.agreement is not None
    assert worst.agreement_interval is not None
    low, high = worst.agreement_interval
    return Drop(ANSWERS, 1 - worst.agreement, (1 - high, 1 - low), worst.samples)


def _checked(metric: Metric, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the float model's values, whose mean is not 0."""
    if not values.mean():
        raise OptionError(
            "target.max_drop", f"is a share of the float model's {metric.name}, which is 0"
        )
    return values


def _lost(
    metric: Metric, exact: NDArray[np.float64], values: NDArray[np.float64], samples: int
) -> Drop:
    """Return the share of the float model's value that is lost.

    The interval is that of the mean of paired differences, for a metric with one number per sample.
    """
    sign = 1 if metric.higher_is_better else -1
    scale = abs(float(exact.mean()))
    interval = None
    if values.ndim and values.shape == exact.shape and values.size > 1:
        shares = sign * (exact - values) / scale
        variance = float(shares.var(ddof=1))
        interval = mean_interval(float(shares.mean()), variance, shares.size)
        samples = shares.size
    lost = sign * (float(exact.mean()) - float(values.mean())) / scale
    return Drop(metric.name, lost, interval, samples)


def _half_fitted(
    context: Context,
    weights: Sequence[WeightMatrix],
    passes: MomentPasses,
    measurements: Measurements,
    allocation: Allocation,
) -> dict[str, NDArray[Any]]:
    """Return the weights with the levels of the allocation, fitted to half of the samples."""

    def work(weight: WeightMatrix, moments: Moments | None) -> NDArray[Any]:
        shrinkage = measurements.shrinkages.get(weight.name)
        choice = allocation[weight.name]
        quantized = quantize_matrix(
            weight.values(), choice, moments, shrinkage, frequencies=weight.frequencies, half=True
        )
        return weight.decoded(quantized)

    results = map_with_moments(work, weights, passes, context.threads)
    return {weight.name: values for weight, values in results}

"""Metrics of the user and of other packages: module:function, or an entry point.

The group of the entry points is `qqonnx.metrics`. The name of an entry point is the name of the
metric, and its object is a function or a `Metric`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.errors import OptionError, QqonnxError, first_line
from qqonnx.evaluation.intervals import mean_interval
from qqonnx.functions import is_function_name, named_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.evaluation.intervals import Interval

GROUP = "qqonnx.metrics"

LABELS = "labels"
"""Name of the array of the data with the class of each sample."""

PARAMETERS = ("outputs", "references", "feeds", "labels", "session", "path")
"""Names of the parameters that a metric can have."""


@dataclass(frozen=True)
class Metric:
    """A metric of a model.

    Attributes:
        name: its name in tables.
        function: function that returns a number, or one number per sample, of which the mean is
            the metric's value. The names of its parameters say what it takes:

            - `outputs`: outputs of the model for each run, as dictionaries of arrays by name;
            - `references`: the same of the baseline;
            - `feeds`: the inputs of each run, with everything else that the data hold;
            - `labels`: index of each sample's class, int64 [samples];
            - `session`: the model's `onnxruntime.InferenceSession`;
            - `path`: the model's file, `pathlib.Path`.
        higher_is_better: whether a larger value is a better one.
    """

    name: str
    function: Callable[..., Any]
    higher_is_better: bool = True

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters of the function that have no default."""
        return frozenset(
            name
            for name, parameter in inspect.signature(self.function).parameters.items()
            if parameter.default is parameter.empty
        )


AnyMetric = str | Metric | Callable[..., Any]
"""A metric as `find_metric` takes it."""


@dataclass(frozen=True)
class MetricValue:
    """Value of a metric for one model.

    Attributes:
        value: the value.
        interval: 95 % confidence interval; None for a metric that is a single number.
    """

    value: float
    interval: Interval | None


def find_metric(metric: AnyMetric) -> Metric:
    """Return a metric.

    Args:
        metric: a metric; a function; module:function; or the name of an entry point.

    Raises:
        OptionError: there is no such metric, it is no function, or it takes something else than
            `PARAMETERS`.
    """
    if isinstance(metric, Metric):
        found = metric
    elif callable(metric):
        found = Metric(getattr(metric, "__name__", type(metric).__name__), metric)
    else:
        item = _named(metric)
        if not isinstance(item, Metric) and not callable(item):
            raise OptionError("metric", f"{metric} is a {type(item).__name__}, not a function")
        found = item if isinstance(item, Metric) else Metric(metric.rpartition(":")[2], item)
    unknown = sorted(found.parameters - {*PARAMETERS})
    if unknown or not found.parameters:
        problem = f"takes {unknown[0]!r}" if unknown else "takes nothing"
        known = ", ".join(PARAMETERS)
        raise OptionError("metric", f"{found.name} {problem}; a metric takes some of {known}")
    return found


def measure(metric: Metric, given: Mapping[str, Any]) -> MetricValue:
    """Return the value of a metric.

    Args:
        metric: the metric.
        given: what its parameters get, by name.

    Raises:
        QqonnxError: as for `metric_values`.
    """
    values = metric_values(metric, given)
    if not values.ndim:
        return MetricValue(float(values), None)
    mean, variance = float(values.mean()), float(values.var(ddof=1)) if values.size > 1 else 0.0
    return MetricValue(mean, mean_interval(mean, variance, values.size))


def metric_values(metric: Metric, given: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return what a metric returns: a number, float64 [], or one per sample, float64 [samples].

    Args:
        metric: the metric.
        given: what its parameters get, by name.

    Raises:
        QqonnxError: the function raises an error, or returns no finite number; or something that
            it takes is not given.
    """
    missing = sorted(name for name in metric.parameters if given.get(name) is None)
    if missing:
        sources = {"references": "a baseline", "labels": "data with labels"}
        need = sources.get(missing[0], "data")
        raise QqonnxError(f"metric {metric.name}: takes {missing[0]!r}, which needs {need}")
    try:
        result = metric.function(**{name: given[name] for name in metric.parameters})
        values = np.asarray(result, np.float64)
    except Exception as error:  # whatever the function raises
        text = f"{type(error).__name__}: {first_line(error)}"
        raise QqonnxError(f"metric {metric.name}: {text}") from error
    if values.ndim > 1 or not values.size or not np.isfinite(values).all():
        raise QqonnxError(f"metric {metric.name}: returns no finite number and no list of them")
    return values


def of_runs(
    outputs: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]] | None,
    feeds: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the parameters of a metric of outputs get, by name.

    Args:
        outputs: outputs of the model for each run.
        references: the same of the baseline; None without one.
        feeds: inputs of each run, with everything else that the data hold.
    """
    labels = [np.asarray(feed[LABELS]) for feed in feeds if LABELS in feed]
    known = len(labels) == len(feeds) and all(array.ndim == 1 for array in labels)
    return {
        "outputs": list(outputs),
        "references": None if references is None else list(references),
        "feeds": list(feeds),
        "labels": np.concatenate(labels) if known and labels else None,
    }


def needs(metrics: Sequence[Metric], *names: str) -> bool:
    """Return whether a metric takes one of these parameters."""
    return any(metric.parameters.intersection(names) for metric in metrics)


def _named(name: str) -> Any:
    if is_function_name(name):
        return named_object(name)
    from importlib.metadata import entry_points

    entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not entries:
        known = ", ".join(sorted({entry.name for entry in entry_points(group=GROUP)})) or "none"
        raise OptionError(
            "metric", f"must be module:function or the name of an entry point ({known}), not {name}"
        )
    if len({entry.value for entry in entries}) > 1:
        raise OptionError("metric", f"{name} is offered by several packages")
    try:
        return entries[0].load()
    except Exception as error:  # importing runs foreign code
        text = f"{type(error).__name__}: {first_line(error)}"
        raise QqonnxError(f"metric {name} ({entries[0].value}): {text}") from error

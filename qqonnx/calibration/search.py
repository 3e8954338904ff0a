"""Search for the levels of every weight that meet a size or a share of changed answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.allocation import (
    Allocation,
    Candidate,
    LevelChoice,
    allocate,
    loss_curve,
)
from qqonnx.calibration.sensitivity import LEVEL_COUNTS, output_losses, weight_errors
from qqonnx.calibration.statistics import decoded_weight, quantize_matrix, work_size
from qqonnx.errors import OptionError
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.context import Context
    from qqonnx.calibration.statistics import WeightStatistics

    Statistics = Sequence[WeightStatistics]
    Losses = Mapping[str, Mapping[LevelChoice, float]]

_NEAR_OCTAVES = 0.5
"""Losses are not measured again if the binary logarithms of the levels differ by less."""

_SEARCH_STEPS = 6


def expected_losses(context: Context, statistics: Statistics, budget: int) -> Losses:
    """Return the expected loss of the outputs for every choice of every weight.

    The loss of each weight is measured for two allocations of `budget` bytes: one with equal levels
    for all weights, and then the best one for these losses. The losses of other choices follow from
    the weight's error; see `loss_curve`.

    Raises:
        QqonnxError: the budget is too small, or the model does not run.
    """
    progress = context.progress
    estimates = in_order(weight_errors, statistics, size=work_size, threads=context.threads)
    errors = {s.name: error for s, error in zip(statistics, estimates, strict=True)}
    measurable = _replaceable(context.model, statistics)
    measured: dict[str, dict[LevelChoice, float]] = {s.name: {} for s in statistics}

    def curves() -> Losses:
        return {name: loss_curve(errors[name], measured[name]) for name in errors}

    weights = [s.weight for s in measurable]
    with output_losses(context.model, weights, context.inputs) as loss:
        for first_round in (True, False):
            if first_round:
                allocation = _even_allocation(statistics, budget)
            else:
                allocation = best_allocation(statistics, curves(), budget)
            unknown = [
                s
                for s in measurable
                if not any(_is_near(allocation[s.name], other) for other in measured[s.name])
            ]
            values = _half_fitted(unknown, allocation, context.threads)
            progress("sensitivity", len(measurable) - len(unknown), 2 * len(measurable))
            for s, quantized in zip(unknown, values, strict=True):
                progress(s.name, 1, 2 * len(measurable))
                measured[s.name][allocation[s.name]] = loss({s.name: quantized}).divergence
            measured = _with_guesses(measured, errors)
    return curves()


def best_allocation(statistics: Statistics, losses: Losses, budget: int) -> Allocation:
    """Return the allocation with the least expected loss within `budget` bytes.

    Raises:
        QqonnxError: the budget is too small.
    """
    candidates = [
        [Candidate(choice, s.nbytes(choice), loss) for choice, loss in losses[s.name].items()]
        for s in statistics
    ]
    chosen = allocate(candidates, budget)
    return {s.name: candidate.choice for s, candidate in zip(statistics, chosen, strict=True)}


def smallest_allocation(
    context: Context, statistics: Statistics, losses: Losses, max_drop: float
) -> Allocation:
    """Return the smallest allocation that changes at most a share `max_drop` of the answers.

    Answers are compared on the second half of the samples, with weights fitted to the first half.

    Raises:
        OptionError: the model is not a classifier, or more answers change at 256 levels.
    """
    largest = sum(s.nbytes(LevelChoice(256, s.can_scale)) for s in statistics)
    smallest = sum(s.nbytes(LevelChoice(2, False)) for s in statistics)
    replaceable = _replaceable(context.model, statistics)
    weights = [s.weight for s in replaceable]
    with output_losses(context.model, weights, context.inputs) as loss:

        def share_changed(budget: int) -> float:
            allocation = best_allocation(statistics, losses, budget)
            values = _half_fitted(replaceable, allocation, context.threads)
            names = (s.name for s in replaceable)
            return loss(dict(zip(names, values, strict=True))).changed

        drop = share_changed(largest)
        if np.isnan(drop):
            raise OptionError("target.max_drop", "the model has no output [samples, classes]")
        if drop > max_drop:
            raise OptionError(
                "target.max_drop",
                f"{100 * max_drop:g} % is too small: {100 * drop:.1f} % of the answers change with "
                "256 levels for every weight",
            )
        low, high = smallest, largest
        for step in range(_SEARCH_STEPS):
            context.progress("search", 1, _SEARCH_STEPS)
            middle = int(np.sqrt(low * high)) if step else (low + high) // 2
            low, high = (low, middle) if share_changed(middle) <= max_drop else (middle, high)
    return best_allocation(statistics, losses, high)


def fixed_allocation(statistics: Statistics) -> Allocation:
    """Return the levels that the options request, with scales where weights can have them."""
    return {s.name: LevelChoice(s.levels, s.can_scale) for s in statistics}


def _even_allocation(statistics: Statistics, budget: int) -> Allocation:
    """Return the largest number of levels, equal for all weights, that fits the budget."""
    largest = 2
    for levels in LEVEL_COUNTS:
        if sum(s.nbytes(LevelChoice(levels, s.can_scale)) for s in statistics) <= budget:
            largest = levels
    return {s.name: LevelChoice(largest, s.can_scale) for s in statistics}


def _half_fitted(
    statistics: Statistics, allocation: Allocation, threads: int
) -> Iterator[NDArray[Any]]:
    """Yield the weights with the levels of the allocation, fitted to half of the samples."""

    def work(s: WeightStatistics) -> NDArray[Any]:
        return decoded_weight(s, quantize_matrix(s, allocation[s.name], half=True))

    return in_order(work, statistics, size=work_size, threads=threads)


def _replaceable(model: ir.Model, statistics: Statistics) -> list[WeightStatistics]:
    """Return the weights that a run can replace: initializers of the main graph."""
    return [
        s for s in statistics if s.weight.scope is model.graph and s.weight.value.is_initializer()
    ]


def _with_guesses(
    measured: dict[str, dict[LevelChoice, float]], errors: Mapping[str, Mapping[LevelChoice, float]]
) -> dict[str, dict[LevelChoice, float]]:
    """Estimate losses of weights that cannot be replaced, by the median loss per unit of error."""
    rates = [
        loss / errors[name][choice]
        for name, losses in measured.items()
        for choice, loss in losses.items()
        if errors[name][choice] > 0
    ]
    rate = float(np.median(rates)) if rates else 1.0
    guesses = {name: next(iter(errors[name].items())) for name in errors}
    return {
        name: losses or {guesses[name][0]: rate * guesses[name][1]}
        for name, losses in measured.items()
    }


def _is_near(choice: LevelChoice, other: LevelChoice) -> bool:
    return bool(abs(np.log2(choice.levels / other.levels)) < _NEAR_OCTAVES)

"""Search for the levels of every weight that meet a size or a share of changed answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.allocation import Allocation, LevelChoice
from qqonnx.calibration.matrices import best_allocation
from qqonnx.calibration.measure import is_replaceable
from qqonnx.calibration.passes import map_with_moments
from qqonnx.calibration.quantize import quantize_matrix
from qqonnx.calibration.sensitivity import judged_batches, output_losses
from qqonnx.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.context import Context
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.calibration.measure import Measurements
    from qqonnx.calibration.moments import Moments
    from qqonnx.calibration.passes import MomentPasses

_SEARCH_STEPS = 6

_SAMPLES = 48
"""Number of samples on which changed answers are counted."""


def smallest_allocation(
    context: Context,
    weights: Sequence[WeightMatrix],
    passes: MomentPasses,
    measurements: Measurements,
    max_drop: float,
) -> Allocation:
    """Return the smallest allocation that changes at most a share `max_drop` of the answers.

    Answers are compared on the second half of the samples, with weights fitted to the first half.

    Raises:
        OptionError: the model is not a classifier, or more answers change at 256 levels.
    """
    largest = sum(w.nbytes(LevelChoice(256, w.can_scale)) for w in weights)
    smallest = sum(w.nbytes(LevelChoice(2, False)) for w in weights)
    replaceable = [weight for weight in weights if is_replaceable(weight, context)]
    inputs = [weight.weight for weight in replaceable]
    batches = judged_batches(context.inputs, _SAMPLES)
    with output_losses(context.model, inputs, batches, context.importance) as loss:

        def share_changed(budget: int) -> float:
            allocation = best_allocation(weights, measurements.losses, budget)
            return loss(
                _half_fitted(context, replaceable, passes, measurements, allocation)
            ).changed

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
    return best_allocation(weights, measurements.losses, high)


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
        quantized = quantize_matrix(weight.values(), choice, moments, shrinkage, half=True)
        return weight.decoded(quantized)

    results = map_with_moments(work, weights, passes, context.threads)
    return {weight.name: values for weight, values in results}

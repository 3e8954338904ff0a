"""Measurement of each weight: the shrinkage of its moments, its errors, and its sensitivity."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from math import log2
from typing import TYPE_CHECKING, Any

from qqonnx.calibration.allocation import loss_curve
from qqonnx.calibration.matrices import best_allocation
from qqonnx.calibration.passes import map_with_moments
from qqonnx.calibration.quantize import quantize_matrix, rounds_for, weight_errors
from qqonnx.calibration.sensitivity import judged_batches, output_losses
from qqonnx.calibration.shrinkage import best_shrinkage
from qqonnx.integer.floats import without_rounding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.allocation import Allocation, LevelChoice, Losses
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.calibration.moments import Moments
    from qqonnx.calibration.passes import MomentPasses
    from qqonnx.calibration.shrinkage import Shrinkage

_FAR = 2.0
"""Bits by which levels must differ from the measured ones to be measured too."""

_CHUNK = 8
"""Number of weights that one session can replace: each such weight slows down the others' runs."""


@dataclass(frozen=True)
class Measurements:
    """What is known of the weights before levels are allocated.

    Attributes:
        shrinkages: shrinkage of the moments, by name of the weight; weights without moments have
            none.
        losses: expected loss of the outputs for every choice of every weight; empty if it was not
            asked for.
    """

    shrinkages: Mapping[str, Shrinkage]
    losses: Losses


@dataclass(frozen=True)
class _Measured:
    """What is measured of one weight: `decoded` has its values with the probed levels."""

    shrinkage: Shrinkage | None
    decoded: NDArray[Any] | None


def measure_weights(
    context: Context,
    weights: Sequence[WeightMatrix],
    passes: MomentPasses,
    budget: int | None,
) -> Measurements:
    """Measure every weight.

    The loss of a weight is that of the model's outputs if this weight alone is quantized, fitted to
    the first half of the samples. Its levels are then those of the best allocation of `budget` if
    the relative error of each weight counted alike. The losses of other choices follow from the
    weight's error; see `loss_curve`. If that gives a weight levels that are far from the measured
    ones, these are measured as well.

    Args:
        context: the model and its inputs.
        weights: the weights.
        passes: the second moments.
        budget: bytes of the weights near which losses are measured; None if none is needed.

    Raises:
        QqonnxError: the budget is too small, or the model does not run on the inputs.
    """
    errors: Losses = {}
    probed: Allocation = {}
    if budget is not None:
        estimates = map_with_moments(weight_errors, weights, passes, context.threads)
        errors = {weight.name: error for weight, error in estimates}
        probed = best_allocation(weights, errors, budget)
    # The same for all weights, so that their losses can be compared.
    rounds = rounds_for(_typical_levels(weights, probed)) - 1
    choices = {name: probed[name] for name in errors if len(errors[name]) > 1}
    shrinkages, losses = _measured_losses(context, weights, passes, choices, {}, rounds)
    expected = losses | _guesses(losses, errors, probed)
    curves = {name: loss_curve(errors[name], {probed[name]: expected[name]}) for name in errors}
    if budget is not None:
        best = best_allocation(weights, curves, budget)
        far = {name: best[name] for name in losses if _distance(best[name], probed[name]) >= _FAR}
        moved = [weight for weight in weights if weight.name in far]
        if moved:
            _, again = _measured_losses(context, moved, passes, far, shrinkages, rounds)
            for name, loss in again.items():
                points = {probed[name]: losses[name], far[name]: loss}
                curves[name] = loss_curve(errors[name], points)
    return Measurements(shrinkages, curves)


def _distance(first: LevelChoice, second: LevelChoice) -> float:
    """Return the difference of two numbers of levels in bits."""
    return abs(log2(first.levels / second.levels))


def _measured_losses(
    context: Context,
    weights: Sequence[WeightMatrix],
    passes: MomentPasses,
    choices: Mapping[str, LevelChoice],
    known: Mapping[str, Shrinkage],
    rounds: int,
) -> tuple[dict[str, Shrinkage], dict[str, float]]:
    """Return the shrinkages, and the loss of the outputs by each of `choices`.

    Args:
        context: the model and its inputs.
        weights: the weights.
        passes: the second moments.
        choices: the levels that are measured, by name of the weight.
        known: shrinkages that are known already.
        rounds: number of rounds of fitted levels and scales.
    """
    shrinkages: dict[str, Shrinkage] = {}
    losses: dict[str, float] = {}
    batches = judged_batches(context.inputs)
    # A change, however small, would flip the rounding of many activations, and so seem large.
    model = without_rounding(context.model)
    total = sum(weight.work_size for weight in weights)

    def work(weight: WeightMatrix, moments: Moments | None) -> _Measured:
        choice = choices.get(weight.name)
        return _measured(weight, moments, context, choice, known.get(weight.name), rounds)

    measured = map_with_moments(work, weights, passes, context.threads)
    while chunk := list(islice(measured, _CHUNK)):
        replaced: dict[str, NDArray[Any]] = {}
        for weight, result in chunk:
            context.progress(weight.name, weight.work_size, total)
            if result.shrinkage is not None:
                shrinkages[weight.name] = result.shrinkage
            if result.decoded is not None:
                replaced[weight.name] = result.decoded
        if replaced:
            inputs = [weight.weight for weight, _ in chunk if weight.name in replaced]
            with output_losses(model, inputs, batches, context.importance) as loss:
                for name, values in replaced.items():
                    losses[name] = loss({name: values})
    return shrinkages, losses


def is_replaceable(weight: WeightMatrix, context: Context) -> bool:
    """Return whether a run can replace the weight: it is an initializer of the main graph."""
    scope, value = weight.weight.scope, weight.weight.value
    return scope is context.model.graph and value.is_initializer()


def _measured(
    weight: WeightMatrix,
    moments: Moments | None,
    context: Context,
    choice: LevelChoice | None,
    shrinkage: Shrinkage | None,
    rounds: int,
) -> _Measured:
    matrix = weight.values()
    if moments is not None and shrinkage is None:
        sample_weight = context.inputs.sample_weight
        shrinkage = best_shrinkage(moments, matrix, sample_weight, scaled=weight.can_scale)
    runs = is_replaceable(weight, context) and context.inputs.feeds
    if choice is None or not runs:
        return _Measured(shrinkage, None)
    quantized = quantize_matrix(
        matrix,
        choice,
        moments,
        shrinkage,
        rounds=rounds,
        frequencies=weight.frequencies,
        half=True,
    )
    return _Measured(shrinkage, weight.decoded(quantized))


def _typical_levels(weights: Sequence[WeightMatrix], probed: Allocation) -> float:
    """Return the mean number of levels, over all values and in bits."""
    sizes = {weight.name: weight.size for weight in weights}
    bits = sum(sizes[name] * log2(choice.levels) for name, choice in probed.items())
    return float(2 ** (bits / max(sum(sizes[name] for name in probed), 1)))


def _guesses(
    losses: Mapping[str, float],
    errors: Mapping[str, Mapping[LevelChoice, float]],
    probed: Allocation,
) -> dict[str, float]:
    """Estimate the losses of other weights by the largest loss per unit of error."""
    rates = [
        loss / errors[name][probed[name]]
        for name, loss in losses.items()
        if errors[name][probed[name]] > 0
    ]
    rate = max(rates, default=1.0)
    return {name: rate * errors[name][probed[name]] for name in errors if name not in losses}

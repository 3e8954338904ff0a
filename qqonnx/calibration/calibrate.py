"""Calibration of one model, from its inputs to the stored weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.calibration.frequencies import with_frequencies
from qqonnx.calibration.matrices import best_allocation, encode_matrix, weight_matrices
from qqonnx.calibration.measure import measure_weights
from qqonnx.calibration.passes import map_with_moments, moment_passes
from qqonnx.calibration.plan_file import read_plan, write_plan
from qqonnx.calibration.quantize import quantize_matrix
from qqonnx.calibration.search import smallest_allocation
from qqonnx.encoding.encode import round_weight
from qqonnx.errors import OptionError
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qqonnx.calibration.allocation import Allocation, LevelChoice
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.drop import Drop
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.calibration.measure import Measurements
    from qqonnx.calibration.moments import Moments
    from qqonnx.calibration.passes import MomentPasses
    from qqonnx.config import Calibration, Target
    from qqonnx.encoding.stored import CodebookWeight, RoundedWeight, StoredWeight
    from qqonnx.model.select import Weight

    Store = Callable[[Sequence[StoredWeight]], int]
    Encoded = dict[str, tuple[LevelChoice, CodebookWeight]]

MIN_ROUNDED = 64
"""Smallest number of elements of a bias that is rounded; smaller ones save less than the Cast
takes."""

_CAST_BYTES = 110
"""Approximate size of that Cast and its record."""

_ATTEMPTS = 10

_FULL = 0.998
"""Share of the target size from which a file counts as full."""

_MARGIN = 64
"""Additional bytes by which the budget is reduced after a file was too large."""

_TYPICAL_BITS = 4
"""Bits per weight for which losses are measured if the target is no size."""


@dataclass(frozen=True)
class Calibrated:
    """Result of a calibration.

    Attributes:
        stored: the stored weights.
        drop: what a target of a largest drop measured; None for other targets.
        limit: bytes of the largest file that the target allows; None if it is not a size.
    """

    stored: list[StoredWeight]
    drop: Drop | None = None
    limit: int | None = None


def calibrate(context: Context, request: Calibration, store: Store) -> Calibrated:
    """Return the stored weights, with levels that are calibrated on the inputs.

    Args:
        context: the model and its inputs.
        request: the target to meet, and the plan file.
        store: function that writes the model with the given stored weights and returns the bytes
            of the file; called once per attempt to meet a target size.

    Raises:
        QqonnxError: the model does not run on the inputs, a weight is not finite, or the target
            cannot be met.
    """
    with temporary_folder() as folder:
        return _calibrated(context, request, store, folder)


def _calibrated(context: Context, request: Calibration, store: Store, folder: Path) -> Calibrated:
    target = request.target
    weights = with_frequencies(context, weight_matrices(context))
    planned = None
    if target is None and request.plan is not None:
        planned = read_plan(request.plan, weights)
    passes = moment_passes(context, weights, folder)
    rounded = _rounded(context.biases)
    limit = None
    if target is not None and target.max_drop is None:
        count = sum(weight.size for weight in weights)
        rest = _fixed_bytes(context, rounded)
        limit = target.nbytes(context.bytes_before, count, rest)
        budget = limit - rest
    else:
        budget = _budget(weights, target)
    measurements = measure_weights(context, weights, passes, budget if planned is None else None)

    def encode(allocation: Allocation, previous: Encoded) -> Encoded:
        return _encoded(context, weights, passes, measurements, allocation, previous)

    drop = None
    if limit is not None:
        allocation, stored = _fit_size(limit, budget, weights, measurements, rounded, encode, store)
    else:
        if target is not None:
            allocation, drop = smallest_allocation(
                context,
                weights,
                passes,
                measurements,
                target,
                lambda a: _stored(encode(a, {}), rounded),
            )
        elif planned is not None:
            allocation = planned
        else:
            allocation = best_allocation(weights, measurements.losses, budget)
        stored = _stored(encode(allocation, {}), rounded)
    if request.plan is not None and planned is None:
        write_plan(request.plan, allocation)
    return Calibrated(stored, drop, limit)


def _budget(weights: Sequence[WeightMatrix], target: Target | None) -> int:
    """Return the bytes of all weights: those of the levels that the options request, or a guess."""
    if target is None:
        return sum(w.nbytes(w.choice(w.levels, scaled=w.can_scale)) for w in weights)
    return _TYPICAL_BITS * sum(weight.size for weight in weights) // 8


def _fit_size(
    size: int,
    budget: int,
    weights: Sequence[WeightMatrix],
    measurements: Measurements,
    rounded: Sequence[RoundedWeight],
    encode: Callable[[Allocation, Encoded], Encoded],
    store: Store,
) -> tuple[Allocation, list[StoredWeight]]:
    """Return the best allocation whose file has at most `size` bytes, and its stored weights.

    The rest of the file depends on how the weights are stored, so its size is known only after
    writing. The budget of the weights is corrected until the file fits and is full.
    """
    fits: tuple[Allocation, list[StoredWeight]] | None = None
    fitting, exceeding = 0, None
    encoded: Encoded = {}
    written = 0
    for _ in range(_ATTEMPTS):
        allocation = best_allocation(weights, measurements.losses, budget)
        if fits is not None and allocation == fits[0]:
            break
        encoded = encode(allocation, encoded)
        stored = _stored(encoded, rounded)
        written = store(stored)
        if written <= size:
            fits, fitting = (allocation, stored), budget
            if written >= _FULL * size or all(c.levels == 256 for c in allocation.values()):
                break
            budget += size - written
        else:
            exceeding = budget
            budget -= written - size + _MARGIN
        if exceeding is not None and not fitting < budget < exceeding:
            budget = (fitting + exceeding) // 2
    if fits is None:
        raise OptionError(
            "target", f"{size:,} bytes cannot be met; the last attempt gave {written:,} bytes"
        )
    return fits


def _stored(encoded: Encoded, rounded: Sequence[RoundedWeight]) -> list[StoredWeight]:
    return [*(stored for _, stored in encoded.values()), *rounded]


def _fixed_bytes(context: Context, rounded: Sequence[RoundedWeight]) -> int:
    """Return the approximate bytes of the file without its weights."""
    weights = sum(plan.weight.tensor.nbytes for plan in context.plans)
    saved = sum(weight.payload_bytes - _CAST_BYTES for weight in rounded)
    return context.plain_bytes - weights - saved


def _rounded(biases: Sequence[Weight]) -> list[RoundedWeight]:
    """Return the large biases as float16, except those with values that overflow it."""
    large = (b for b in biases if b.tensor.size >= MIN_ROUNDED and b.tensor.dtype.itemsize > 2)
    return [weight for weight in map(round_weight, large) if weight is not None]


def _encoded(
    context: Context,
    weights: Sequence[WeightMatrix],
    passes: MomentPasses,
    measurements: Measurements,
    allocation: Allocation,
    previous: Encoded,
) -> Encoded:
    """Quantize the weights with the levels of the allocation.

    Those of `previous` with the same levels are taken over.
    """
    found: Encoded = {
        weight.name: previous[weight.name]
        for weight in weights
        if weight.name in previous and previous[weight.name][0] == allocation[weight.name]
    }
    missing = [weight for weight in weights if weight.name not in found]
    total = sum(weight.work_size for weight in missing)

    def work(weight: WeightMatrix, moments: Moments | None) -> CodebookWeight:
        shrinkage = measurements.shrinkages.get(weight.name)
        choice = allocation[weight.name]
        quantized = quantize_matrix(
            weight.values(), choice, moments, shrinkage, frequencies=weight.frequencies
        )
        method = "kmeans" if moments is None else "kmeans+feedback"
        return encode_matrix(weight, quantized, scaled=choice.scaled, method=method)

    for weight, stored in map_with_moments(work, missing, passes, context.threads):
        context.progress(weight.name, weight.work_size, total)
        found[weight.name] = (allocation[weight.name], stored)
    return {weight.name: found[weight.name] for weight in weights}

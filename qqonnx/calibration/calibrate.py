"""Calibration of one model, from its inputs to the stored weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qqonnx.calibration.plan_file import read_plan, write_plan
from qqonnx.calibration.search import (
    best_allocation,
    expected_losses,
    fixed_allocation,
    smallest_allocation,
)
from qqonnx.calibration.statistics import (
    collect_statistics,
    encode_matrix,
    quantize_matrix,
    work_size,
)
from qqonnx.encoding.encode import round_weight
from qqonnx.errors import OptionError
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qqonnx.calibration.allocation import Allocation
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.search import Losses
    from qqonnx.calibration.statistics import WeightStatistics
    from qqonnx.config import Calibration
    from qqonnx.encoding.stored import RoundedWeight, StoredWeight
    from qqonnx.model.select import Weight

    Store = Callable[[Sequence[StoredWeight]], int]

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


def calibrate(context: Context, request: Calibration, store: Store) -> list[StoredWeight]:
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
    target = request.target
    statistics = collect_statistics(context)
    rounded = _rounded(context.biases)

    def encode(allocation: Allocation) -> list[StoredWeight]:
        return [*_encoded(context, statistics, allocation), *rounded]

    if target is None:
        if request.plan is not None:
            return encode(read_plan(request.plan, statistics))
        return encode(fixed_allocation(statistics))
    count = sum(entry.matrix.size for entry in statistics)
    if target.max_drop is not None:
        losses = expected_losses(context, statistics, _TYPICAL_BITS * count // 8)
        allocation = smallest_allocation(context, statistics, losses, target.max_drop)
        stored = encode(allocation)
    else:
        size = target.nbytes(context.bytes_before, count)
        budget = size - _fixed_bytes(context, rounded)
        losses = expected_losses(context, statistics, budget)
        allocation, stored = _fit_size(size, budget, statistics, losses, encode, store)
    if request.plan is not None:
        write_plan(request.plan, allocation)
    return stored


def _fit_size(
    size: int,
    budget: int,
    statistics: Sequence[WeightStatistics],
    losses: Losses,
    encode: Callable[[Allocation], list[StoredWeight]],
    store: Store,
) -> tuple[Allocation, list[StoredWeight]]:
    """Return the best allocation whose file has at most `size` bytes, and its stored weights.

    The rest of the file depends on how the weights are stored, so its size is known only after
    writing. The budget of the weights is corrected until the file fits.
    """
    previous: Allocation = {}
    overshot = False
    for _ in range(_ATTEMPTS):
        allocation = best_allocation(statistics, losses, budget)
        stored = encode(allocation)
        written = store(stored)
        largest = all(choice.levels == 256 for choice in allocation.values())
        full = written >= _FULL * size or largest or allocation == previous
        if written <= size and (full or overshot):
            return allocation, stored
        previous = allocation
        if written > size:
            overshot = True
            budget -= written - size + _MARGIN
        else:
            budget += size - written
    raise OptionError(
        "target", f"{size:,} bytes cannot be met; the last attempt gave {written:,} bytes"
    )


def _fixed_bytes(context: Context, rounded: Sequence[RoundedWeight]) -> int:
    """Return the approximate bytes of the file without its weights."""
    weights = sum(plan.weight.tensor.nbytes for plan in context.plans)
    saved = sum(weight.payload_bytes - _CAST_BYTES for weight in rounded)
    return context.bytes_before - weights - saved


def _rounded(biases: Sequence[Weight]) -> list[RoundedWeight]:
    """Return the large biases as float16, except those with values that overflow it."""
    large = (b for b in biases if b.tensor.size >= MIN_ROUNDED and b.tensor.dtype.itemsize > 2)
    return [weight for weight in map(round_weight, large) if weight is not None]


def _encoded(
    context: Context, statistics: Sequence[WeightStatistics], allocation: Allocation
) -> list[StoredWeight]:
    """Quantize all weights with the levels of the allocation."""
    total = sum(entry.matrix.size for entry in statistics)
    quantized = in_order(
        lambda entry: quantize_matrix(entry, allocation[entry.name]),
        statistics,
        size=work_size,
        threads=context.threads,
    )
    stored: list[StoredWeight] = []
    for entry, matrix in zip(statistics, quantized, strict=True):
        context.progress(entry.name, entry.matrix.size, total)
        stored.append(encode_matrix(entry, matrix, scaled=allocation[entry.name].scaled))
    return stored

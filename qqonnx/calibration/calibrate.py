"""Calibration of one model, from its inputs to the stored weights."""

from __future__ import annotations

from dataclasses import dataclass
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

    import onnx_ir as ir

    from qqonnx.calibration.allocation import Allocation
    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.calibration.search import Losses
    from qqonnx.calibration.statistics import WeightStatistics
    from qqonnx.config import Calibration, Progress, WeightPlan
    from qqonnx.encoding.stored import RoundedWeight, StoredWeight
    from qqonnx.model.select import Weight

    Store = Callable[[Sequence[StoredWeight]], int]

MIN_ROUNDED = 64
"""Smallest number of elements of a bias that is worth the node that casts it from float16."""

_CAST_BYTES = 110
"""About what that node and its record take."""

_ATTEMPTS = 10

_FULL = 0.998
"""A file that fills this share of its target is full."""

_MARGIN = 64
"""Bytes by which the next file is to be smaller than it must, after one that was too large."""

_USUAL_BITS = 4


@dataclass(frozen=True)
class Context:
    """What calibration works on.

    Attributes:
        model: the float model.
        plans: the weights to compress, with the levels that the options ask for.
        biases: tensors that are rounded to float16.
        inputs: calibration inputs.
        bytes_before: bytes of the model's file.
        threads: number of weights worked on at once.
        progress: function called with what is being done, an amount and its total.
    """

    model: ir.Model
    plans: Sequence[WeightPlan]
    biases: Sequence[Weight]
    inputs: CalibrationInputs
    bytes_before: int
    threads: int
    progress: Progress


def calibrate(context: Context, request: Calibration, store: Store) -> list[StoredWeight]:
    """Return the weights, stored with levels that are calibrated on the inputs.

    Args:
        context: the model and its inputs.
        request: the target to meet, and the file of the allocation.
        store: function that writes the model with some stored weights, and returns the bytes of the
            file; called once per attempt to meet a target size.

    Raises:
        QqonnxError: the model does not run on the inputs, a weight is not finite, or the target
            cannot be met.
    """
    threads, progress, target = context.threads, context.progress, request.target
    statistics = collect_statistics(context.model, context.plans, context.inputs, threads, progress)
    rounded = _rounded(context.biases)

    def encode(allocation: Allocation) -> list[StoredWeight]:
        return [*_encoded(statistics, allocation, threads, progress), *rounded]

    if target is None:
        if request.plan is not None:
            return encode(read_plan(request.plan, statistics))
        return encode(fixed_allocation(statistics))
    count = sum(entry.matrix.size for entry in statistics)
    if target.max_drop is not None:
        losses = _losses(context, statistics, _USUAL_BITS * count // 8)
        allocation = smallest_allocation(
            context.model, statistics, losses, context.inputs, target.max_drop, threads, progress
        )
        stored = encode(allocation)
    else:
        size = target.nbytes(context.bytes_before, count)
        budget = size - _fixed_bytes(context, rounded)
        losses = _losses(context, statistics, budget)
        allocation, stored = _within(size, budget, statistics, losses, encode, store)
    if request.plan is not None:
        write_plan(request.plan, allocation)
    return stored


def _losses(context: Context, statistics: Sequence[WeightStatistics], budget: int) -> Losses:
    return expected_losses(
        context.model, statistics, context.inputs, budget, context.threads, context.progress
    )


def _within(
    size: int,
    budget: int,
    statistics: Sequence[WeightStatistics],
    losses: Losses,
    encode: Callable[[Allocation], list[StoredWeight]],
    store: Store,
) -> tuple[Allocation, list[StoredWeight]]:
    """Return the best allocation whose file has at most `size` bytes, and its weights.

    The size of the file is known only when it is written: what stands beside the weights depends on
    how they are stored. So the budget for the weights is corrected until the file fits.
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
    raise OptionError("target", f"{size:,} bytes cannot be met: {written:,} bytes")


def _fixed_bytes(context: Context, rounded: Sequence[RoundedWeight]) -> int:
    """Return about how many bytes of the file are not those of the weights."""
    weights = sum(plan.weight.tensor.nbytes for plan in context.plans)
    saved = sum(weight.payload_bytes - _CAST_BYTES for weight in rounded)
    return context.bytes_before - weights - saved


def _rounded(biases: Sequence[Weight]) -> list[RoundedWeight]:
    """Return the biases that are worth it as float16, unless a value is beyond float16."""
    large = (b for b in biases if b.tensor.size >= MIN_ROUNDED and b.tensor.dtype.itemsize > 2)
    return [weight for weight in map(round_weight, large) if weight is not None]


def _encoded(
    statistics: Sequence[WeightStatistics],
    allocation: Allocation,
    threads: int,
    progress: Progress,
) -> list[StoredWeight]:
    """Quantize every weight as allotted."""
    total = sum(entry.matrix.size for entry in statistics)
    quantized = in_order(
        lambda entry: quantize_matrix(entry, allocation[entry.name]),
        statistics,
        size=work_size,
        threads=threads,
    )
    stored: list[StoredWeight] = []
    for entry, matrix in zip(statistics, quantized, strict=True):
        progress(entry.name, entry.matrix.size, total)
        stored.append(encode_matrix(entry, matrix, scaled=allocation[entry.name].scaled))
    return stored

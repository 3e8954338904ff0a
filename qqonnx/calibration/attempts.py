"""All of calibration for one model: inputs, statistics, allocation, attempts to meet a target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.gptq import Quantized
from qqonnx.calibration.inputs import CalibrationInputs, calibration_inputs
from qqonnx.calibration.plan_file import read_plan, write_plan
from qqonnx.calibration.search import (
    allocation,
    fixed_levels,
    measure,
    quantize_all,
    smallest_within,
)
from qqonnx.calibration.subject import Subject, subjects
from qqonnx.config import WeightPlan
from qqonnx.encoding.encode import FLOAT16, QuantizedWeight, RoundedWeight, rounded
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import onnx_ir as ir

    from qqonnx.calibration.allocation import Allocation
    from qqonnx.config import Calibration
    from qqonnx.model.select import Weight

    Progress = Callable[[str, int, int], None]

ROUNDED_FROM = 64
"""Elements from which a bias is worth the node that casts it from float16."""

_NODE_BYTES = 110
"""About what that node and the record of it take."""

_CORRECTIONS = 10
_CLOSE = 0.998
"""A file that fills this much of its target is not tried to be filled further."""

_MARGIN = 64
"""Bytes that a file that is too large is to become smaller than it must."""

_USUAL_BITS = 4


@dataclass(frozen=True)
class Attempt:
    """What calibration made of the weights.

    Attributes:
        weights: quantized weights, and biases as float16.
        source: what the model was calibrated with.
        unreadable: image files that were left out.
    """

    weights: tuple[QuantizedWeight | RoundedWeight, ...]
    source: str
    unreadable: tuple[str, ...]


def attempts(
    model: ir.Model,
    plans: Sequence[WeightPlan],
    biases: Sequence[Weight],
    calibration: Calibration,
    bytes_before: int,
    threads: int,
    progress: Progress,
) -> Generator[Attempt, int, None]:
    """Yield attempts to meet the target, each after being sent the bytes of the last one's file.

    The last attempt counts; without a target it is the only one, but for reconstruction.

    Args:
        model: the model, as it was read.
        plans: of the weights; levels count without a target.
        biases: rounded to float16.
        calibration: how.
        bytes_before: bytes of the model's file.
        threads: weights worked on at once.
        progress: called with what is being done, an amount and its total.

    Raises:
        QqonnxError: the inputs do not fit the model, a weight is not finite, or the target
            cannot be met.
    """
    inputs = calibration_inputs(model, calibration.data, calibration.samples)
    found = subjects(model, plans, inputs, threads, progress)
    small = [weight for weight in map(rounded, _bias_plans(biases)) if weight is not None]
    target = calibration.target
    if target is None:
        at = read_plan(calibration.plan, found) if calibration.plan else fixed_levels(found)
        quantized = quantize_all(found, at, threads, progress)
        yield _attempt(found, at, quantized, small, inputs)
    elif target.max_drop is not None:
        count = sum(subject.matrix.size for subject in found)
        measure(model, found, inputs, _USUAL_BITS * count // 8, threads, progress)
        at = smallest_within(model, found, inputs, target.max_drop, threads, progress)
        quantized = quantize_all(found, at, threads, progress)
        yield _attempt(found, at, quantized, small, inputs)
    else:
        wanted = target.nbytes(bytes_before, sum(subject.matrix.size for subject in found))
        planned = sum(entry.weight.tensor.nbytes for entry in plans)
        saved = sum(weight.payload_bytes - _NODE_BYTES for weight in small)
        budget = wanted - (bytes_before - planned - saved)
        measure(model, found, inputs, budget, threads, progress)
        at, quantized = yield from _within(found, small, inputs, wanted, budget, threads, progress)
    if target is not None and calibration.plan is not None:
        write_plan(calibration.plan, at)
    if calibration.reconstruct:
        tuned, tuned_biases = tune(model, found, at, quantized, small, inputs, progress)
        yield _attempt(found, at, tuned, tuned_biases, inputs)


def _within(
    found: Sequence[Subject],
    small: Sequence[RoundedWeight],
    inputs: CalibrationInputs,
    wanted: int,
    budget: int,
    threads: int,
    progress: Progress,
) -> Generator[Attempt, int, tuple[Allocation, list[Quantized]]]:
    """Yield attempts until a file has at most `wanted` bytes; return what is in it."""
    previous: Allocation = {}
    overshot = False
    for _ in range(_CORRECTIONS):
        at = allocation(found, budget)
        quantized = quantize_all(found, at, threads, progress)
        written = yield _attempt(found, at, quantized, small, inputs)
        full = written >= _CLOSE * wanted or _is_most(at) or at == previous
        if written <= wanted and (full or overshot):
            return at, quantized
        previous = at
        # What stands beside the weights depends on how they are stored.
        if written > wanted:
            overshot = True
            budget -= written - wanted + _MARGIN
        else:
            budget += wanted - written
    raise QqonnxError(f"the target of {wanted:,} bytes cannot be met: {written:,} bytes")


def _is_most(at: Allocation) -> bool:
    return all(levels == 256 for levels, _ in at.values())


def _bias_plans(biases: Sequence[Weight]) -> list[WeightPlan]:
    return [
        WeightPlan(bias, FLOAT16, 0, "tensor")
        for bias in biases
        if bias.tensor.size >= ROUNDED_FROM and bias.tensor.dtype.itemsize > 2
    ]


def _attempt(
    found: Sequence[Subject],
    at: Allocation,
    quantized: Sequence[Quantized],
    small: Sequence[RoundedWeight],
    inputs: CalibrationInputs,
) -> Attempt:
    weights = [
        subject.result(matrix, at[subject.name][1])
        for subject, matrix in zip(found, quantized, strict=True)
    ]
    return Attempt((*weights, *small), inputs.source, inputs.unreadable)


def tune(
    model: ir.Model,
    found: Sequence[Subject],
    at: Allocation,
    quantized: Sequence[Quantized],
    small: Sequence[RoundedWeight],
    inputs: CalibrationInputs,
    progress: Progress,
) -> tuple[list[Quantized], list[RoundedWeight]]:
    """Tune levels, scales and biases end to end; indices stay.

    Raises:
        QqonnxError: PyTorch is missing, or the model has an operator that it cannot run.
    """
    from qqonnx.finetune.finetune import reconstruct
    from qqonnx.finetune.tunable import Tunable

    graph = model.graph
    weights = [
        Tunable(
            subject.name,
            subject.plan.weight.shape,
            np.ascontiguousarray(subject.placed(matrix.indices)),
            matrix.levels,
            matrix.scales.reshape(-1) if at[subject.name][1] else None,
            subject.plan.weight.channel_axis if at[subject.name][1] else None,
        )
        for subject, matrix in zip(found, quantized, strict=True)
        if subject.plan.weight.graph is graph and subject.plan.weight.value.is_initializer()
    ]
    biases = [weight.plan.weight.name for weight in small if weight.plan.weight.graph is graph]
    result = reconstruct(
        model,
        weights,
        biases,
        list(inputs.batches()),
        progress=lambda amount, total: progress("reconstruction", amount, total),
    )
    new = {weight.name: weight for weight in result.weights}
    tuned = []
    for subject, matrix in zip(found, quantized, strict=True):
        weight = new.get(subject.name)
        if weight is None:
            tuned.append(matrix)
            continue
        scales = matrix.scales if weight.scales is None else weight.scales
        tuned.append(Quantized(weight.levels, scales.reshape(matrix.scales.shape), matrix.indices))
    kept = [rounded(w.plan, result.biases.get(w.plan.weight.name)) or w for w in small]
    return tuned, kept


def rebound(
    weights: Sequence[QuantizedWeight | RoundedWeight], onto: dict[str, Weight]
) -> list[QuantizedWeight | RoundedWeight]:
    """Return the quantized weights as those of another reading of the same model, by name."""
    return [
        replace(weight, plan=replace(weight.plan, weight=onto[weight.plan.weight.name]))
        for weight in weights
    ]

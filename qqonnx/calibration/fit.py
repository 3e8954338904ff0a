"""All of calibration for one model: inputs, statistics, allocation, and files that fit a target."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.feedback import Quantized
from qqonnx.calibration.inputs import CalibrationInputs, calibration_inputs
from qqonnx.calibration.search import (
    allocation,
    fixed_levels,
    measure,
    quantize_all,
    smallest_within,
)
from qqonnx.calibration.subject import Subject, subjects
from qqonnx.errors import QqonnxError
from qqonnx.graph.save import staged
from qqonnx.packing import storage_for
from qqonnx.plan import WeightPlan
from qqonnx.quantize import FLOAT16, QuantizedWeight, RoundedWeight, rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from qqonnx.calibration.target import Target
    from qqonnx.graph.select import Weight

    Progress = Callable[[str, int, int], None]
    Allocation = dict[str, tuple[int, bool]]

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
class Calibration:
    """How to calibrate.

    Attributes:
        data: folder of images, or .npy or .npz file; None for made-up inputs (data-free).
        samples: greatest number of samples.
        target: size or accuracy to meet; without one the levels are those of the options.
        plan: JSON file of the allocation: written with a target, read without.
        reconstruct: tune levels, scales and biases end to end afterwards (needs PyTorch).
    """

    data: Path | None = None
    samples: int = 256
    target: Target | None = None
    plan: Path | None = None
    reconstruct: bool = False


@dataclass(frozen=True)
class Fitted:
    """What calibration made of the weights.

    Attributes:
        weights: quantized weights, and biases as float16.
        source: what the model was calibrated with.
        unreadable: image files that were left out.
    """

    weights: tuple[QuantizedWeight | RoundedWeight, ...]
    source: str
    unreadable: tuple[str, ...]


def fitted(
    model: ir.Model,
    plans: Sequence[WeightPlan],
    biases: Sequence[Weight],
    calibration: Calibration,
    bytes_before: int,
    progress: Progress,
) -> Generator[Fitted, int, None]:
    """Yield attempts to meet the target, each after being sent the bytes of the last one's file.

    The last attempt counts; without a target it is the only one, but for reconstruction.

    Args:
        model: the model, as it was read.
        plans: of the weights; levels count without a target.
        biases: rounded to float16.
        calibration: how.
        bytes_before: bytes of the model's file.
        progress: called with what is being done, an amount and its total.

    Raises:
        QqonnxError: the inputs do not fit the model, a weight is not finite, or the target
            cannot be met.
    """
    inputs = calibration_inputs(model, calibration.data, calibration.samples)
    found = subjects(model, plans, inputs, progress)
    small = [weight for weight in map(rounded, _bias_plans(biases)) if weight is not None]
    target = calibration.target
    if target is None:
        at = read_plan(calibration.plan, found) if calibration.plan else fixed_levels(found)
        quantized = quantize_all(found, at, progress)
        yield _fitted(found, at, quantized, small, inputs)
    elif target.max_drop is not None:
        count = sum(subject.matrix.size for subject in found)
        measure(model, found, inputs, _USUAL_BITS * count // 8, progress)
        at = smallest_within(model, found, inputs, target.max_drop, progress)
        quantized = quantize_all(found, at, progress)
        yield _fitted(found, at, quantized, small, inputs)
    else:
        wanted = target.nbytes(bytes_before, sum(subject.matrix.size for subject in found))
        planned = sum(entry.weight.tensor.nbytes for entry in plans)
        saved = sum(weight.payload_bytes - _NODE_BYTES for weight in small)
        budget = wanted - (bytes_before - planned - saved)
        measure(model, found, inputs, budget, progress)
        at, quantized = yield from _within(found, small, inputs, wanted, budget, progress)
    if target is not None and calibration.plan is not None:
        write_plan(calibration.plan, at)
    if calibration.reconstruct:
        tuned, tuned_biases = tune(model, found, at, quantized, small, inputs, progress)
        yield _fitted(found, at, tuned, tuned_biases, inputs)


def _within(
    found: Sequence[Subject],
    small: Sequence[RoundedWeight],
    inputs: CalibrationInputs,
    wanted: int,
    budget: int,
    progress: Progress,
) -> Generator[Fitted, int, tuple[Allocation, list[Quantized]]]:
    """Yield attempts until a file has at most `wanted` bytes; return what is in it."""
    previous: Allocation = {}
    overshot = False
    for _ in range(_CORRECTIONS):
        at = allocation(found, budget)
        quantized = quantize_all(found, at, progress)
        written = yield _fitted(found, at, quantized, small, inputs)
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


def _fitted(
    found: Sequence[Subject],
    at: Allocation,
    quantized: Sequence[Quantized],
    small: Sequence[RoundedWeight],
    inputs: CalibrationInputs,
) -> Fitted:
    weights = [
        subject.result(matrix, at[subject.name][1])
        for subject, matrix in zip(found, quantized, strict=True)
    ]
    return Fitted((*weights, *small), inputs.source, inputs.unreadable)


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
    from qqonnx.calibration.reconstruction import reconstruct
    from qqonnx.calibration.tunable import Tunable

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


def write_plan(path: Path, at: Allocation) -> None:
    """Write the allocation as JSON, for people to read and edit.

    Raises:
        QqonnxError: the file cannot be written.
    """
    weights: dict[str, Any] = {
        name: {
            "levels": levels,
            "bits": round(storage_for(levels).bits_per_weight, 3),
            "granularity": "scale" if scaled else "tensor",
        }
        for name, (levels, scaled) in at.items()
    }
    text = json.dumps({"weights": weights}, indent=1, ensure_ascii=False) + "\n"
    with staged(path) as written:
        written.write_text(text, "utf-8")


def read_plan(path: Path, found: Sequence[Subject]) -> Allocation:
    """Read an allocation; `bits` is for people and not read.

    Raises:
        QqonnxError: the file cannot be read, or does not name every weight with levels that
            there are.
    """
    try:
        weights = dict(json.loads(path.read_text("utf-8"))["weights"])
    except OSError as error:
        raise QqonnxError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise QqonnxError(f"{path}: not a plan as --plan writes it") from error
    at: Allocation = {}
    for subject in found:
        entry = weights.pop(subject.name, None)
        if not isinstance(entry, dict):
            raise QqonnxError(f"{path}: has no weight {subject.name!r}")
        levels, granularity = entry.get("levels"), entry.get("granularity")
        if not isinstance(levels, int) or not 2 <= levels <= 256:
            raise QqonnxError(f"{path}: weight {subject.name!r}: levels are 2 to 256")
        if granularity not in ("scale", "tensor"):
            raise QqonnxError(f"{path}: weight {subject.name!r}: granularity is scale or tensor")
        at[subject.name] = levels, granularity == "scale" and subject.can_scale
    if weights:
        raise QqonnxError(f"{path}: the model has no weight {next(iter(weights))!r}")
    return at


def rebound(
    weights: Sequence[QuantizedWeight | RoundedWeight], onto: dict[str, Weight]
) -> list[QuantizedWeight | RoundedWeight]:
    """Return the quantized weights as those of another reading of the same model, by name."""
    return [
        replace(weight, plan=replace(weight.plan, weight=onto[weight.plan.weight.name]))
        for weight in weights
    ]

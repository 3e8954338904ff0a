"""Levels for every weight: measured losses, allocation to a budget, the search for a drop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.allocation import Choice, allocate, loss_curve
from qqonnx.calibration.sensitivity import probe
from qqonnx.calibration.subject import work_size
from qqonnx.codebooks import assign, fit
from qqonnx.errors import QqonnxError
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.allocation import Allocation
    from qqonnx.calibration.gptq import Quantized
    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.calibration.subject import Subject

    Progress = Callable[[str, int, int], None]

LADDER = (2, 3, 4, 5, 6, 8, 10, 11, 12, 16, 20, 22, 25, 32, 45, 64, 90, 128, 181, 256)
"""Numbers of levels to choose from: the greatest at each number of bits that packing has."""

_ERROR_SAMPLE = 20_000
"""Values of a weight that its error at each number of levels is estimated from."""

_HALF_OCTAVE = 0.5
_SEARCH_STEPS = 6


def fixed_levels(found: Sequence[Subject]) -> Allocation:
    """Return the levels that were asked for, with scales where there is a channel axis."""
    return {subject.name: (subject.plan.levels, subject.can_scale) for subject in found}


def measure(
    model: ir.Model,
    found: Sequence[Subject],
    inputs: CalibrationInputs,
    budget: int,
    threads: int,
    progress: Progress,
) -> None:
    """Measure what the outputs lose by each weight, around the allocation for `budget` bytes.

    Raises:
        QqonnxError: the budget is too small.
    """
    estimates = in_order(_errors, found, size=work_size, threads=threads)
    for subject, errors in zip(found, estimates, strict=True):
        subject.errors.update(errors)
    replaceable = _replaceable(model, found)
    weights = [subject.plan.weight for subject in replaceable]
    with probe(model, weights, inputs) as compare:
        for levels_within in (_even, allocation):
            at = levels_within(found, budget)
            unknown = [
                subject
                for subject in replaceable
                if not any(_near(at[subject.name], other) for other in subject.measured)
            ]
            values = _values_of_half(unknown, at, threads)
            progress("probe", len(replaceable) - len(unknown), 2 * len(replaceable))
            for subject, quantized in zip(unknown, values, strict=True):
                progress(subject.name, 1, 2 * len(replaceable))
                subject.measured[at[subject.name]] = compare({subject.name: quantized})[0]
            _guess_unmeasured(found)


def _values_of_half(
    found: Sequence[Subject], at: Allocation, threads: int
) -> Iterator[NDArray[Any]]:
    """Yield weights quantized as allotted, fitted to the first half of the samples."""

    def work(subject: Subject) -> NDArray[Any]:
        return subject.values(subject.quantized(*at[subject.name], half=True))

    return in_order(work, found, size=work_size, threads=threads)


def _replaceable(model: ir.Model, found: Sequence[Subject]) -> list[Subject]:
    """Return those whose weights a run can replace: initializers of the model's own graph."""
    return [
        subject
        for subject in found
        if subject.plan.weight.graph is model.graph and subject.plan.weight.value.is_initializer()
    ]


def _guess_unmeasured(found: Sequence[Subject]) -> None:
    """Give weights that cannot be replaced the median loss for each unit of error."""
    rates = [
        loss / subject.errors[key]
        for subject in found
        for key, loss in subject.measured.items()
        if subject.errors[key] > 0
    ]
    rate = float(np.median(rates)) if rates else 1.0
    for subject in found:
        if not subject.measured:
            key = next(iter(subject.errors))
            subject.measured[key] = rate * subject.errors[key]


def _near(key: tuple[int, bool], other: tuple[int, bool]) -> bool:
    return bool(abs(np.log2(key[0] / other[0])) < _HALF_OCTAVE)


def _errors(subject: Subject) -> dict[tuple[int, bool], float]:
    """Estimate the error of a weight by levels and whether scaled, weighted by its inputs."""
    matrix = subject.matrix
    importance = np.ones((len(matrix), matrix.shape[2]), np.float32)
    if subject.moments is not None:
        importance = np.einsum("gii->gi", subject.moments.all[0]) + np.float32(1e-20)
    errors = {}
    for scaled in (True, False) if subject.can_scale else (False,):
        scales = np.ones(matrix.shape[:2], np.float32)
        if scaled:
            scales = np.maximum(np.sqrt(np.square(matrix).mean(axis=2)), np.float32(1e-12))
        shares = (matrix / scales[..., None]).reshape(-1)
        weight = np.square(scales)[..., None] * importance[:, None, :]
        weight = np.broadcast_to(weight, matrix.shape).reshape(-1)
        factor = 1.0
        if shares.size > _ERROR_SAMPLE:
            chosen = np.random.default_rng(0).choice(shares.size, _ERROR_SAMPLE, replace=False)
            factor = shares.size / _ERROR_SAMPLE
            shares, weight = shares[chosen], weight[chosen]
        for levels in LADDER:
            codebook = fit(shares, "kmeans", levels, importance=weight)
            decoded = codebook.levels[assign(shares, codebook)]
            squared = np.square(shares - decoded) * weight
            errors[levels, scaled] = factor * float(squared.sum())
    return errors


def allocation(found: Sequence[Subject], budget: int) -> Allocation:
    """Return levels and whether scaled by weight, for at most `budget` bytes.

    Raises:
        QqonnxError: the budget is too small.
    """
    choices = []
    for subject in found:
        curve = loss_curve(subject.errors, subject.measured)
        choices.append(
            [
                Choice(levels, scaled, subject.nbytes(levels, scaled), loss)
                for (levels, scaled), loss in curve.items()
            ]
        )
    chosen = allocate(choices, budget)
    return {
        subject.name: (choice.levels, choice.scaled)
        for subject, choice in zip(found, chosen, strict=True)
    }


def _even(found: Sequence[Subject], budget: int) -> Allocation:
    """Return about the same number of levels for every weight."""
    fitting = 2
    for levels in LADDER:
        if sum(subject.nbytes(levels, subject.can_scale) for subject in found) <= budget:
            fitting = levels
    return {subject.name: (fitting, subject.can_scale) for subject in found}


def smallest_within(
    model: ir.Model,
    found: Sequence[Subject],
    inputs: CalibrationInputs,
    max_drop: float,
    threads: int,
    progress: Progress,
) -> Allocation:
    """Return the smallest allocation at which at most a share `max_drop` of the answers changes.

    Judged by the samples of the second half, with weights fitted to the first.

    Raises:
        QqonnxError: the model tells no classes apart, or more answers change at 256 levels.
    """
    largest = sum(subject.nbytes(256, subject.can_scale) for subject in found)
    smallest = sum(subject.nbytes(2, False) for subject in found)
    replaceable = _replaceable(model, found)
    with probe(model, [subject.plan.weight for subject in replaceable], inputs) as compare:

        def changed(budget: int) -> float:
            at = allocation(found, budget)
            values = _values_of_half(replaceable, at, threads)
            names = (subject.name for subject in replaceable)
            return compare(dict(zip(names, values, strict=True)))[1]

        drop = changed(largest)
        if np.isnan(drop):
            raise QqonnxError("--max-drop: the model has no output that tells classes apart")
        if drop > max_drop:
            raise QqonnxError(
                f"--max-drop {100 * max_drop:g}%: at 256 levels {100 * drop:.1f} % of the answers "
                "change already"
            )
        low, high = smallest, largest
        for step in range(_SEARCH_STEPS):
            progress("search", 1, _SEARCH_STEPS)
            middle = int(np.sqrt(low * high)) if step else (low + high) // 2
            low, high = (low, middle) if changed(middle) <= max_drop else (middle, high)
    return allocation(found, high)


def quantize_all(
    found: Sequence[Subject],
    at: Allocation,
    threads: int,
    progress: Progress,
) -> list[Quantized]:
    """Quantize every weight as allotted."""
    total = sum(subject.matrix.size for subject in found)
    results = []
    work = in_order(
        lambda subject: subject.quantized(*at[subject.name]), found, size=work_size, threads=threads
    )
    for subject, quantized in zip(found, work, strict=True):
        progress(subject.name, subject.matrix.size, total)
        results.append(quantized)
    return results

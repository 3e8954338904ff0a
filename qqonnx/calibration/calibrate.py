"""From plans to quantized weights by way of activations, within a size if one is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.allocation import Choice, allocate, loss_curve
from qqonnx.calibration.feedback import (
    Quantized,
    by_importance,
    error_feedback,
    output_error,
    shrunk,
)
from qqonnx.calibration.layers import Layer, layer_of
from qqonnx.calibration.sensitivity import probe
from qqonnx.calibration.statistics import Moments, collect
from qqonnx.codebooks import extremes, fit
from qqonnx.errors import QqonnxError
from qqonnx.packing import storage_for
from qqonnx.quantize import NODE_BYTES, PLANE_BYTES, QuantizedWeight, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.plan import WeightPlan

    Floats = NDArray[np.float32]
    Progress = Callable[[str, int, int], None]

LADDER = (2, 3, 4, 5, 6, 8, 10, 11, 12, 16, 20, 22, 25, 32, 45, 64, 90, 128, 181, 256)
"""Numbers of levels to choose from: the greatest at each number of bits that packing has."""

_ERROR_SAMPLE = 20_000
"""Values of a weight that its error at each number of levels is estimated from."""

_STRENGTHS = (1.0, 3.0, 10.0, 30.0)
"""Divisors of the number of independent samples, tried on samples held out."""

_TRIED_LEVELS = 8
_HALF_OCTAVE = 0.5
_SEARCH_STEPS = 6


@dataclass
class Subject:
    """One weight, what is known of its inputs, and what quantizing it costs.

    Attributes:
        plan: what was asked.
        layer: how it acts; None if that is not known.
        matrix: float32 [groups, rows, columns].
        moments: second moments of its inputs, if known.
        samples: independent samples that they count for.
        errors: error of the weight by levels and whether scaled.
        measured: loss of the outputs by the same, where it was measured.
    """

    plan: WeightPlan
    layer: Layer | None
    matrix: Floats
    moments: Moments | None
    samples: float = 0.0
    errors: dict[tuple[int, bool], float] = field(default_factory=dict)
    measured: dict[tuple[int, bool], float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.plan.weight.name

    @property
    def can_scale(self) -> bool:
        """Whether its rows can have scales."""
        return (
            self.plan.weight.channel_axis is not None
            and self.matrix.shape[1] * len(self.matrix) > 1
        )

    def nbytes(self, levels: int, scaled: bool) -> int:
        """Return the bytes of indices, codebook, scales and decode nodes."""
        scales = 2 * self.matrix.shape[0] * self.matrix.shape[1] if scaled else 0
        itemsize = self.plan.weight.tensor.dtype.itemsize
        storage = storage_for(levels)
        nodes = NODE_BYTES + PLANE_BYTES * (len(storage.plane_bits) - 1)
        indices = storage.packed_bytes(self.matrix.size)
        return int(indices + storage.levels * itemsize + scales + nodes)

    def quantized(self, levels: int, scaled: bool, *, half: bool = False) -> Quantized:
        """Quantize the matrix, with error feedback where the inputs are known.

        Args:
            levels: number of levels.
            scaled: whether rows have scales.
            half: use only the first half of the calibration samples.
        """
        if self.moments is None:
            ones = np.ones((len(self.matrix), self.matrix.shape[2]), np.float32)
            return by_importance(self.matrix, ones, levels, scaled=scaled)
        moment = self.moments.halves[0] if half else self.moments.all
        samples = self.samples / 2 if half else self.samples
        return error_feedback(self.matrix, shrunk(moment, samples), levels, scaled=scaled)

    def values(self, quantized: Quantized) -> NDArray[Any]:
        """Return the decoded weight in its own shape and dtype."""
        return self.placed(quantized.decoded).astype(self.plan.weight.tensor.dtype.numpy())

    def result(self, quantized: Quantized, scaled: bool) -> QuantizedWeight:
        """Return the quantized weight, ready to be written."""
        dtype = self.plan.weight.tensor.dtype.numpy()
        plan = replace(
            self.plan,
            method="kmeans+feedback" if self.moments is not None else "kmeans",
            levels=quantized.levels.size,
            granularity="scale" if scaled else "tensor",
        )
        return packed(
            plan,
            np.ascontiguousarray(self.plan.weight.tensor.numpy()),
            np.ascontiguousarray(self.placed(quantized.indices)),
            quantized.levels.astype(dtype),
            quantized.scales.reshape(-1).astype(np.float16) if scaled else None,
        )

    def placed(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return what has the matrix's shape in that of the weight."""
        if self.layer is not None:
            return self.layer.weight(matrix)
        axis, shape = self.plan.weight.channel_axis, self.plan.weight.shape
        if axis is None:
            return matrix.reshape(shape)
        moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        return np.moveaxis(matrix.reshape(moved), 0, axis)


def subjects(
    model: ir.Model,
    plans: Sequence[WeightPlan],
    inputs: CalibrationInputs,
    progress: Progress,
) -> list[Subject]:
    """Collect what calibration needs to know of each weight.

    Raises:
        QqonnxError: a weight is not finite, or the model does not run on the inputs.
    """
    layers = [layer_of(entry.weight) for entry in plans]
    moments = collect(model, [layer for layer in layers if layer is not None], inputs, progress)
    found = []
    for entry, layer in zip(plans, layers, strict=True):
        values = entry.weight.tensor.numpy().astype(np.float32)
        try:
            extremes(values.reshape(-1))
        except QqonnxError as error:
            raise QqonnxError(f"weight {entry.weight.name!r}: {error}") from error
        subject = Subject(
            entry, layer, _matrix(values, entry, layer), moments.get(entry.weight.name)
        )
        subject.samples = _trusted_samples(subject) * inputs.trust
        found.append(subject)
    return found


def _matrix(values: Floats, entry: WeightPlan, layer: Layer | None) -> Floats:
    if layer is not None:
        return np.ascontiguousarray(layer.matrix(values))
    axis = entry.weight.channel_axis
    if axis is None:
        return values.reshape(1, 1, -1)
    return np.ascontiguousarray(np.moveaxis(values, axis, 0)).reshape(1, values.shape[axis], -1)


def _trusted_samples(subject: Subject) -> float:
    """Return how many independent samples the moments count for, judged by their other half."""
    if subject.moments is None:
        return 0.0
    first, second = subject.moments.halves
    best, chosen = np.inf, 1.0
    for strength in _STRENGTHS:
        moment = shrunk(first, subject.moments.samples / 2 / strength)
        quantized = error_feedback(
            subject.matrix, moment, _TRIED_LEVELS, scaled=subject.can_scale, rounds=1
        )
        error = output_error(subject.matrix, quantized.decoded, second)
        if error > best:
            break
        if error < best:
            best, chosen = error, strength
    return subject.moments.samples / chosen


def fixed_levels(found: Sequence[Subject]) -> dict[str, tuple[int, bool]]:
    """Return the levels that were asked for, with scales where there is a channel axis."""
    return {subject.name: (subject.plan.levels, subject.can_scale) for subject in found}


def measure(
    model: ir.Model,
    found: Sequence[Subject],
    inputs: CalibrationInputs,
    budget: int,
    progress: Progress,
) -> None:
    """Measure what the outputs lose by each weight, around the allocation for `budget` bytes.

    Raises:
        QqonnxError: the budget is too small.
    """
    for subject in found:
        _estimate_errors(subject)
    replaceable = _replaceable(model, found)
    weights = [subject.plan.weight for subject in replaceable]
    with probe(model, weights, inputs) as compare:
        at = _even(found, budget)
        for last in (False, True):
            for subject in replaceable:
                progress(subject.name, 1, 2 * len(replaceable))
                key = at[subject.name]
                if any(_near(key, other) for other in subject.measured):
                    continue
                values = subject.values(subject.quantized(*key, half=True))
                subject.measured[key] = compare({subject.name: values})[0]
            _guess_unmeasured(found)
            if not last:
                at = allocation(found, budget)


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


def _estimate_errors(subject: Subject) -> None:
    matrix = subject.matrix
    importance = np.ones((len(matrix), matrix.shape[2]), np.float32)
    if subject.moments is not None:
        importance = np.einsum("gii->gi", subject.moments.all) + np.float32(1e-20)
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
            where = np.searchsorted(codebook.thresholds, shares)
            squared = np.square(shares - codebook.levels[where]) * weight
            subject.errors[levels, scaled] = factor * float(squared.sum())


def allocation(found: Sequence[Subject], budget: int) -> dict[str, tuple[int, bool]]:
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


def _even(found: Sequence[Subject], budget: int) -> dict[str, tuple[int, bool]]:
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
    progress: Progress,
) -> dict[str, tuple[int, bool]]:
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
            values = {
                subject.name: subject.values(subject.quantized(*at[subject.name], half=True))
                for subject in replaceable
            }
            return compare(values)[1]

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
    found: Sequence[Subject], at: Mapping[str, tuple[int, bool]], progress: Progress
) -> list[Quantized]:
    """Quantize every weight as allotted."""
    total = sum(subject.matrix.size for subject in found)
    results = []
    for subject in found:
        progress(subject.name, subject.matrix.size, total)
        results.append(subject.quantized(*at[subject.name]))
    return results

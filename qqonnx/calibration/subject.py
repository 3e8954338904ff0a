"""What calibration knows of one weight, and the ways to quantize it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.gptq import (
    Quantized,
    by_importance,
    error_feedback,
    output_error,
)
from qqonnx.calibration.layers import Layer, layer_of
from qqonnx.calibration.moments import Moments, collect
from qqonnx.calibration.shrinkage import shrunk, used_together
from qqonnx.codebooks import extremes
from qqonnx.encoding.encode import NODE_BYTES, PLANE_BYTES, QuantizedWeight, packed
from qqonnx.encoding.packing import storage_for
from qqonnx.errors import QqonnxError
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.config import WeightPlan

    Floats = NDArray[np.float32]
    Progress = Callable[[str, int, int], None]

_DIVISORS = (1.0, 3.0, 10.0, 30.0)
"""Of the number of independent samples, tried on samples held out."""

_WEIGHTS = (0.0, 0.4, 0.8)
"""How far inputs may be expected to go together as the weight uses them."""

_TRIED_LEVELS = 8


@dataclass(frozen=True)
class Trust:
    """What to believe of second moments.

    Attributes:
        samples: independent samples that they count for.
        weight: how far inputs are expected to go together as the weight uses them, 0 to 1.
    """

    samples: float
    weight: float


@dataclass
class Subject:
    """One weight, what is known of its inputs, and what quantizing it costs.

    Attributes:
        plan: what was asked.
        layer: how it acts; None if that is not known.
        matrix: float32 [groups, rows, columns].
        moments: second moments of its inputs, if known.
        trust: what to believe of them.
        errors: error of the weight by levels and whether scaled.
        measured: loss of the outputs by the same, where it was measured.
    """

    plan: WeightPlan
    layer: Layer | None
    matrix: Floats
    moments: Moments | None
    trust: Trust = field(default_factory=lambda: Trust(1.0, 0.0))
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
        expected = self.trust.weight * used_together(self.matrix) if self.trust.weight else None
        believe = _believed_half if half else _believed
        believed = believe(self.moments, self.trust.samples, expected)
        return error_feedback(self.matrix, believed, levels, scaled=scaled)

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


def work_size(subject: Subject) -> int:
    """Return about how many numbers quantizing the weight holds."""
    groups, _, columns = subject.matrix.shape
    return int(subject.matrix.size) + (groups * columns**2 if subject.moments is not None else 0)


def subjects(
    model: ir.Model,
    plans: Sequence[WeightPlan],
    inputs: CalibrationInputs,
    threads: int,
    progress: Progress,
) -> list[Subject]:
    """Collect what calibration needs to know of each weight.

    Raises:
        QqonnxError: a weight is not finite, or the model does not run on the inputs.
    """
    weights = [entry.weight for entry in plans]
    layers = [layer_of(weight) if weight.graph is model.graph else None for weight in weights]
    moments = collect(model, [layer for layer in layers if layer is not None], inputs, progress)
    if inputs.trust < 1:
        # Made-up inputs have other means than real ones: not to be held on to.
        moments = {name: replace(m, means=np.zeros_like(m.means)) for name, m in moments.items()}
    found = []
    for entry, layer in zip(plans, layers, strict=True):
        values = entry.weight.tensor.numpy().astype(np.float32)
        try:
            extremes(values.reshape(-1))
        except QqonnxError as error:
            raise QqonnxError(f"weight {entry.weight.name!r}: {error}") from error
        matrix = _matrix(values, entry, layer)
        found.append(Subject(entry, layer, matrix, moments.get(entry.weight.name)))

    def trust(subject: Subject) -> Trust:
        return _trust(subject, inputs.trust)

    trusts = in_order(trust, found, size=work_size, threads=threads)
    for subject, believed in zip(found, trusts, strict=True):
        subject.trust = believed
    return found


def _matrix(values: Floats, entry: WeightPlan, layer: Layer | None) -> Floats:
    if layer is not None:
        return np.ascontiguousarray(layer.matrix(values))
    axis = entry.weight.channel_axis
    if axis is None:
        return values.reshape(1, 1, -1)
    return np.ascontiguousarray(np.moveaxis(values, axis, 0)).reshape(1, values.shape[axis], -1)


def _believed(moments: Moments, samples: float, expected: Floats | None) -> Floats:
    return shrunk(*moments.all, samples, expected)


def _believed_half(moments: Moments, samples: float, expected: Floats | None) -> Floats:
    """Return what the first half of the samples says."""
    return shrunk(moments.halves[0], moments.means[0], samples / 2, expected)


def _trust(subject: Subject, share: float) -> Trust:
    """Return what to believe of the moments: fitted to one half, judged by the other.

    Args:
        subject: the weight.
        share: what a sample counts for besides.
    """
    if subject.moments is None:
        return Trust(1.0, 0.0)
    moments, together = subject.moments, used_together(subject.matrix)

    def error(divisor: float, weight: float) -> float:
        believed = _believed_half(moments, moments.samples / divisor, weight * together)
        quantized = error_feedback(
            subject.matrix, believed, _TRIED_LEVELS, scaled=subject.can_scale, rounds=1
        )
        return output_error(subject.matrix, quantized.decoded, moments.halves[1])

    divisor, weight = _DIVISORS[0], _WEIGHTS[0]
    least = error(divisor, weight)
    for tried in _WEIGHTS[1:]:
        found = error(divisor, tried)
        if found >= least:
            break
        least, weight = found, tried
    for tried in _DIVISORS[1:]:
        found = error(tried, weight)
        if found >= least:
            break
        least, divisor = found, tried
    return Trust(moments.samples / divisor * share, weight)

"""The statistics of each weight: its matrix, and the second moments of its inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qqonnx.calibration.gptq import QuantizedMatrix, gptq, output_error, weighted_kmeans
from qqonnx.calibration.layers import Layer, layer_of
from qqonnx.calibration.moments import Moments, collect_moments
from qqonnx.calibration.shrinkage import column_correlations, shrunk
from qqonnx.codebooks import extremes
from qqonnx.encoding.encode import NODE_BYTES, PLANE_BYTES, stored_weight
from qqonnx.encoding.packing import storage_for
from qqonnx.errors import QqonnxError
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.allocation import LevelChoice
    from qqonnx.calibration.context import Context
    from qqonnx.encoding.stored import CodebookWeight
    from qqonnx.model.select import Weight

    Floats = NDArray[np.float32]

_DIVISORS = (1.0, 3.0, 10.0, 30.0)
"""Divisors of the number of independent samples, compared on the holdout."""

_PRIOR_WEIGHTS = (0.0, 0.4, 0.8)
"""Factors of the prior correlations, compared on the holdout."""

_HOLDOUT_LEVELS = 8
"""Number of levels for these comparisons."""


class Shrinkage(NamedTuple):
    """The amount of shrinkage of second moments; see `qqonnx.calibration.shrinkage`.

    Attributes:
        samples: number of independent samples that the moments are worth.
        prior_weight: factor of the prior correlations, 0 to 1.
    """

    samples: float
    prior_weight: float


_NONE = Shrinkage(1.0, 0.0)
"""Shrinkage of a weight without moments."""


@dataclass(frozen=True)
class WeightStatistics:
    """One weight and the second moments of its inputs.

    Attributes:
        weight: the weight.
        levels: number of levels that the options request; used without a target.
        layer: the operator that uses the weight; None if its inputs cannot be observed.
        matrix: the weight, float32 [groups, rows, columns].
        moments: second moments of the inputs; None if they are not known.
        shrinkage: shrinkage of the moments.
    """

    weight: Weight
    levels: int
    layer: Layer | None
    matrix: Floats
    moments: Moments | None
    shrinkage: Shrinkage

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.weight.name

    @property
    def can_scale(self) -> bool:
        """Whether the rows can have scales."""
        return self.weight.channel_axis is not None and self.matrix.shape[1] * len(self.matrix) > 1

    def nbytes(self, choice: LevelChoice) -> int:
        """Return the bytes of indices, codebook, scales and decode nodes."""
        storage = storage_for(choice.levels)
        scales = 2 * self.matrix.shape[0] * self.matrix.shape[1] if choice.scaled else 0
        codebook = storage.levels * self.weight.tensor.dtype.itemsize
        nodes = NODE_BYTES + PLANE_BYTES * (len(storage.plane_bits) - 1)
        return int(storage.packed_bytes(self.matrix.size) + codebook + scales + nodes)

    def in_shape(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Reshape an array from the matrix's shape to the weight's shape."""
        if self.layer is not None:
            return self.layer.weight(matrix)
        axis, shape = self.weight.channel_axis, self.weight.shape
        if axis is None:
            return matrix.reshape(shape)
        moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        return np.moveaxis(matrix.reshape(moved), 0, axis)


def collect_statistics(context: Context) -> list[WeightStatistics]:
    """Return the statistics of each weight.

    Raises:
        QqonnxError: a weight is not finite, or the model does not run on the inputs.
    """
    model, inputs = context.model, context.inputs
    weights = [plan.weight for plan in context.plans]
    layers = [layer_of(weight) if weight.scope is model.graph else None for weight in weights]
    observed = [layer for layer in layers if layer is not None]
    moments = collect_moments(model, observed, inputs, context.progress)
    if inputs.sample_weight < 1:
        # The means of synthetic inputs differ from those of real ones, so they are not kept.
        moments = {name: replace(m, means=np.zeros_like(m.means)) for name, m in moments.items()}
    unshrunk = [
        WeightStatistics(
            weight=plan.weight,
            levels=plan.levels,
            layer=layer,
            matrix=_matrix(plan.weight, layer),
            moments=moments.get(plan.weight.name),
            shrinkage=_NONE,
        )
        for plan, layer in zip(context.plans, layers, strict=True)
    ]
    shrinkages = in_order(
        lambda entry: _best_shrinkage(entry, inputs.sample_weight),
        unshrunk,
        size=work_size,
        threads=context.threads,
    )
    return [
        replace(entry, shrinkage=shrinkage)
        for entry, shrinkage in zip(unshrunk, shrinkages, strict=True)
    ]


def quantize_matrix(
    statistics: WeightStatistics, choice: LevelChoice, *, half: bool = False
) -> QuantizedMatrix:
    """Quantize a weight: by GPTQ if second moments are known, otherwise by k-means.

    Args:
        statistics: statistics of the weight.
        choice: levels and scales.
        half: whether to use only the first half of the calibration samples.
    """
    matrix, moments = statistics.matrix, statistics.moments
    if moments is None:
        ones = np.ones((len(matrix), matrix.shape[2]), np.float32)
        return weighted_kmeans(matrix, ones, choice.levels, scaled=choice.scaled)
    samples, prior_weight = statistics.shrinkage
    prior = prior_weight * column_correlations(matrix) if prior_weight else None
    if half:
        moment = shrunk(moments.halves[0], moments.means[0], samples / 2, prior)
    else:
        moment = shrunk(*moments.all, samples, prior)
    return gptq(matrix, moment, choice.levels, scaled=choice.scaled)


def decoded_weight(statistics: WeightStatistics, quantized: QuantizedMatrix) -> NDArray[Any]:
    """Return the decoded weight, in the weight's shape and dtype."""
    dtype = statistics.weight.tensor.dtype.numpy()
    return statistics.in_shape(quantized.decoded).astype(dtype)


def encode_matrix(
    statistics: WeightStatistics, quantized: QuantizedMatrix, *, scaled: bool
) -> CodebookWeight:
    """Return the stored form of a quantized weight."""
    dtype = statistics.weight.tensor.dtype.numpy()
    return stored_weight(
        statistics.weight,
        np.ascontiguousarray(statistics.in_shape(quantized.indices)),
        quantized.levels.astype(dtype),
        quantized.scales.reshape(-1).astype(np.float16) if scaled else None,
        method="kmeans+feedback" if statistics.moments is not None else "kmeans",
        granularity="scale" if scaled else "tensor",
    )


def work_size(statistics: WeightStatistics) -> int:
    """Return the approximate number of values in memory while the weight is quantized."""
    groups, _, columns = statistics.matrix.shape
    moments = groups * columns**2 if statistics.moments is not None else 0
    return int(statistics.matrix.size) + moments


def _matrix(weight: Weight, layer: Layer | None) -> Floats:
    values = weight.tensor.numpy().astype(np.float32)
    try:
        extremes(values.reshape(-1))
    except QqonnxError as error:
        raise QqonnxError(f"weight {weight.name!r}: {error}") from error
    if layer is not None:
        return np.ascontiguousarray(layer.matrix(values))
    axis = weight.channel_axis
    if axis is None:
        return values.reshape(1, 1, -1)
    return np.ascontiguousarray(np.moveaxis(values, axis, 0)).reshape(1, values.shape[axis], -1)


def _best_shrinkage(statistics: WeightStatistics, sample_weight: float) -> Shrinkage:
    """Return the shrinkage with the least error on one half of the samples, fitted to the other.

    Args:
        statistics: statistics of the weight.
        sample_weight: number of real samples that a sample is worth.
    """
    moments, matrix = statistics.moments, statistics.matrix
    if moments is None:
        return _NONE
    prior = column_correlations(matrix)

    @cache
    def error(divisor: float, prior_weight: float) -> float:
        samples = moments.samples / divisor / 2
        moment = shrunk(moments.halves[0], moments.means[0], samples, prior_weight * prior)
        quantized = gptq(matrix, moment, _HOLDOUT_LEVELS, scaled=statistics.can_scale, rounds=1)
        return output_error(matrix, quantized.decoded, moments.halves[1])

    prior_weight = _first_minimum(_PRIOR_WEIGHTS, lambda weight: error(_DIVISORS[0], weight))
    divisor = _first_minimum(_DIVISORS, lambda divisor: error(divisor, prior_weight))
    return Shrinkage(moments.samples / divisor * sample_weight, prior_weight)


def _first_minimum(values: Sequence[float], error: Callable[[float], float]) -> float:
    """Return the first value whose successor does not have a smaller error."""
    best = values[0]
    for value in values[1:]:
        if error(value) >= error(best):
            break
        best = value
    return best

"""Weights as matrices: what calibration quantizes, and how the result is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.calibration.allocation import Candidate, LevelChoice, allocate
from qqonnx.calibration.layers import Layer, layer_of
from qqonnx.encoding.encode import NODE_BYTES, PLANE_BYTES, stored_weight
from qqonnx.encoding.packing import storage_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.allocation import Allocation, Losses
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.gptq import QuantizedMatrix
    from qqonnx.config import WeightPlan
    from qqonnx.encoding.stored import CodebookWeight
    from qqonnx.model.select import Weight

    Floats = NDArray[np.float32]


_INFINITE = 1e30
"""Loss of what makes outputs infinite."""


@dataclass(frozen=True)
class WeightMatrix:
    """A weight as a matrix [groups, rows, columns], with one row per output channel.

    Attributes:
        weight: the weight.
        levels: number of levels that the options request; without a target, the size of all weights
            with these levels is the budget.
        layer: the operator that uses the weight; None if its inputs cannot be observed.
        fixed: whether the weight must have these levels.
        grid: largest absolute level of a weight that is multiplied as an integer; else None.
        frequencies: for a table whose rows are read by index, the frequency of each row over the
            mean, in the first half of the samples and in all: float32 [2, rows].
    """

    weight: Weight
    levels: int
    layer: Layer | None
    fixed: bool = False
    grid: int | None = None
    frequencies: Floats | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.weight.name

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.weight.shape)

    @property
    def rows(self) -> int:
        """Number of rows of all groups."""
        if self.layer is not None:
            return self.size // self.layer.columns
        axis = self.weight.channel_axis
        return 1 if axis is None else self.weight.shape[axis]

    @property
    def can_scale(self) -> bool:
        """Whether the rows can have scales: one per output channel."""
        axis = self.weight.channel_axis
        return axis is not None and self.rows == self.weight.shape[axis] > 1

    def choice(self, levels: int, *, scaled: bool) -> LevelChoice:
        """Return a choice of levels; integer ones are at most `2 * grid + 1`, and have scales."""
        if self.grid is None:
            return LevelChoice(levels, scaled)
        return LevelChoice(min(levels, 2 * self.grid + 1), True, self.grid)

    @property
    def work_size(self) -> int:
        """Approximate number of values in memory while the weight is quantized."""
        moments = self.layer.groups * self.layer.columns**2 if self.layer is not None else 0
        return self.size + moments

    def values(self) -> Floats:
        """Return the matrix, float32 [groups, rows, columns]; a file is read again each time."""
        tensor = self.weight.tensor
        values = tensor.numpy().astype(np.float32)
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        if self.layer is not None:
            return np.ascontiguousarray(self.layer.matrix(values))
        axis = self.weight.channel_axis
        if axis is None:
            return values.reshape(1, 1, -1)
        return np.ascontiguousarray(np.moveaxis(values, axis, 0)).reshape(1, self.rows, -1)

    def payload_bytes(self, choice: LevelChoice) -> int:
        """Return the bytes of indices, codebook and scales."""
        storage = storage_for(choice.levels)
        scales = 2 * self.rows if choice.scaled else 0
        codebook = storage.levels * self.weight.tensor.dtype.itemsize
        return int(storage.packed_bytes(self.size) + codebook + scales)

    def nbytes(self, choice: LevelChoice) -> int:
        """Return the bytes of indices, codebook, scales and decode nodes."""
        planes = len(storage_for(choice.levels).plane_bits)
        return self.payload_bytes(choice) + NODE_BYTES + PLANE_BYTES * (planes - 1)

    def in_shape(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Reshape an array from the matrix's shape to the weight's shape."""
        if self.layer is not None:
            return self.layer.weight(matrix)
        axis, shape = self.weight.channel_axis, self.weight.shape
        if axis is None:
            return matrix.reshape(shape)
        moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        return np.moveaxis(matrix.reshape(moved), 0, axis)

    def decoded(self, quantized: QuantizedMatrix) -> NDArray[Any]:
        """Return a quantized matrix decoded, in the weight's shape and dtype."""
        return self.in_shape(quantized.decoded).astype(self.weight.tensor.dtype.numpy())


def weight_matrices(context: Context) -> list[WeightMatrix]:
    """Return the weights to compress as matrices."""
    return [
        WeightMatrix(plan.weight, plan.levels, _layer(plan, context), plan.fixed, plan.grid)
        for plan in context.plans
    ]


def _layer(plan: WeightPlan, context: Context) -> Layer | None:
    if plan.weight.scope is not context.model.graph or not plan.observed:
        return None
    try:
        return layer_of(plan.weight)
    except TypeError:  # an attribute has another type than its operator's
        return None


def best_allocation(weights: Sequence[WeightMatrix], losses: Losses, budget: int) -> Allocation:
    """Return the allocation with the least expected loss within `budget` bytes.

    Raises:
        QqonnxError: the budget is too small.
    """
    candidates = [
        [
            Candidate(choice, w.nbytes(choice), loss if np.isfinite(loss) else _INFINITE)
            for choice, loss in losses[w.name].items()
        ]
        for w in weights
    ]
    chosen = allocate(candidates, budget)
    return {w.name: candidate.choice for w, candidate in zip(weights, chosen, strict=True)}


def encode_matrix(
    matrix: WeightMatrix, quantized: QuantizedMatrix, *, scaled: bool, method: str
) -> CodebookWeight:
    """Return the stored form of a quantized weight."""
    levels, scales = quantized.levels, quantized.scales.reshape(-1)
    if quantized.levels.dtype != np.int8:
        levels = levels.astype(matrix.weight.tensor.dtype.numpy())
        scales = scales.astype(np.float16)
    return stored_weight(
        matrix.weight,
        np.ascontiguousarray(matrix.in_shape(quantized.indices)),
        levels,
        scales if scaled else None,
        method=method,
        granularity="scale" if scaled else "tensor",
    )

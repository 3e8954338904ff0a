"""Encode a weight that is integers already, in levels that are integers of the same type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks import assign, fit, nearest
from qqonnx.encoding.encode import stored_weight
from qqonnx.model.quantized import steps_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.config import WeightPlan
    from qqonnx.encoding.stored import CodebookWeight
    from qqonnx.model.select import Weight


def encode_integers(plan: WeightPlan) -> CodebookWeight:
    """Choose integer levels and the indices of a weight of int8 or uint8.

    The levels are those of the method, rounded. Without more distinct integers than levels, nothing
    is lost. The error is in steps of the integers.
    """
    weight = plan.weight
    values = np.ascontiguousarray(weight.tensor.numpy())
    lowest = int(np.iinfo(values.dtype).min)
    positions = values.astype(np.int16) - lowest
    counts = _counts(weight, positions)
    # Every integer occurs once here, and counts as much as its occurrences.
    integers = np.arange(256, dtype=np.float32) + lowest
    found = counts > 0
    fitted = fit(integers[found], plan.method, plan.levels, importance=counts[found])
    levels = np.unique(np.rint(fitted.levels))
    indices = assign(integers, nearest(levels))[positions]
    return stored_weight(
        weight,
        indices,
        levels.astype(values.dtype),
        None,
        method=plan.method,
        granularity="tensor",
    )


def _counts(weight: Weight, positions: NDArray[np.int16]) -> NDArray[np.float64]:
    """Return how much each integer counts: its occurrences times their squared scales [256]."""
    steps = steps_of(weight)
    importance = None
    if steps is not None:
        shares = np.square(steps / np.abs(steps).max())
        importance = np.broadcast_to(np.maximum(shares, 1e-12), positions.shape).reshape(-1)
    return np.bincount(positions.reshape(-1), importance, minlength=256).astype(np.float64)

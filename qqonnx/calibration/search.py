"""Search for the levels of every weight that lose at most a share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.allocation import LevelChoice
from qqonnx.calibration.drop import judged_files, judged_outputs
from qqonnx.calibration.matrices import best_allocation
from qqonnx.errors import OptionError
from qqonnx.evaluation.plugins import find_metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qqonnx.calibration.allocation import Allocation
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.drop import Drop, Encode
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.calibration.measure import Measurements
    from qqonnx.calibration.passes import MomentPasses
    from qqonnx.config import Target

_SEARCH_STEPS = 6


def smallest_allocation(
    context: Context,
    weights: Sequence[WeightMatrix],
    passes: MomentPasses,
    measurements: Measurements,
    target: Target,
    encode: Encode,
) -> tuple[Allocation, Drop]:
    """Return the smallest allocation that loses at most `target.max_drop`, and what it loses.

    Answers and metrics of outputs are judged on the second half of the samples, with weights fitted
    to the first half. Metrics of a session or a file judge the file itself.

    Args:
        context: the model and its inputs.
        weights: the weights.
        passes: the second moments.
        measurements: the expected losses.
        target: the largest drop, and the metric.
        encode: function that returns the stored weights of an allocation.

    Raises:
        OptionError: the model gives no answers and there is no metric, the float model's value is
            0, or more is lost at 256 levels.
        QqonnxError: the metric fails.
    """
    assert target.max_drop is not None
    metric = None if target.metric is None else find_metric(target.metric)
    largest = sum(w.nbytes(LevelChoice(256, w.can_scale)) for w in weights)
    smallest = sum(w.nbytes(LevelChoice(2, False)) for w in weights)

    def allocation_of(budget: int) -> Allocation:
        return best_allocation(weights, measurements.losses, budget)

    if metric is not None and metric.parameters.intersection(("session", "path")):
        judging = judged_files(context, metric, encode)
    else:
        judging = judged_outputs(context, weights, passes, measurements, metric)
    with judging as judge:
        drop = judge(allocation_of(largest))
        if drop.lost > target.max_drop:
            what = "answers change" if metric is None else f"{drop.metric} is lost"
            raise OptionError(
                "target.max_drop",
                f"{100 * target.max_drop:g} % is too small: {100 * drop.lost:.1f} % of the {what} "
                "with 256 levels for every weight",
            )
        low, high = smallest, largest
        for step in range(_SEARCH_STEPS):
            context.progress("search", 1, _SEARCH_STEPS)
            middle = int(np.sqrt(low * high)) if step else (low + high) // 2
            found = judge(allocation_of(middle))
            if found.lost <= target.max_drop:
                high, drop = middle, found
            else:
                low = middle
    return allocation_of(high), drop

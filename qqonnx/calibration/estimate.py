"""Estimate of the time that a calibration takes, from one run and one product of matrices."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.matrices import weight_matrices
from qqonnx.calibration.moments import POSITIONS
from qqonnx.calibration.sensitivity import judged_batches
from qqonnx.calibration.session import extended_session, first_run
from qqonnx.calibration.shrinkage import HOLDOUT_COLUMNS, HOLDOUT_ROWS

if TYPE_CHECKING:
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.matrices import WeightMatrix

FEWEST_RUNS = 4
"""With fewer runs, calibration is left out."""

_SIZE = 768
"""Size of the matrices whose product is timed."""

_SLOWER_RUNS = 1.6
"""Time of a run with additional outputs or inputs, over that of a plain run."""

_PRODUCTS = 26
"""Products of a weight with its second moment: when it is fitted to half of the samples, and in the
end."""

_SECONDS_PER_VALUE = 3e-7
"""Time of k-means, indices and packing for one value."""


@dataclass(frozen=True)
class Estimate:
    """The time of a calibration in seconds.

    Attributes:
        fixed: what does not depend on the number of runs.
        per_run: moments of one run.
    """

    fixed: float
    per_run: float

    def seconds(self, runs: int) -> float:
        """Return the time with this number of runs."""
        return self.fixed + runs * self.per_run

    def runs_within(self, limit: float) -> int:
        """Return the largest number of runs whose calibration takes at most `limit` seconds."""
        return max(int((limit - self.fixed) / max(self.per_run, 1e-9)), 0)


def estimate(context: Context) -> Estimate:
    """Estimate the time of a calibration.

    Raises:
        QqonnxError: the model does not run on the inputs.
    """
    weights = weight_matrices(context)
    operations = _operations_per_second()
    with extended_session(context.model) as session:
        feed = context.inputs.feeds[0]
        start = time.perf_counter()
        first_run(session, feed)
        run = _SLOWER_RUNS * (time.perf_counter() - start)
    positions = context.inputs.batch_size * POSITIONS
    distinct = {w.layer.patch_key: w.layer for w in weights if w.layer is not None}
    sums = sum(layer.groups * layer.columns**2 * positions for layer in distinct.values())
    runs = len(weights) * len(judged_batches(context.inputs))
    fixed = runs * run + sum(_work(weight) for weight in weights) / operations
    values = sum(weight.size for weight in weights)
    return Estimate(fixed + values * _SECONDS_PER_VALUE, run + sums / operations)


def _work(weight: WeightMatrix) -> float:
    """Return the number of multiplications and additions of GPTQ for a weight."""
    if weight.layer is None:
        return 0.0
    groups, columns = weight.layer.groups, weight.layer.columns
    narrow = min(columns, HOLDOUT_COLUMNS)
    compared = min(groups, HOLDOUT_ROWS) * narrow**2 * (narrow / 3 + 14 * HOLDOUT_ROWS)
    factors = groups * columns**3
    products = 2 * _PRODUCTS * weight.size * columns
    return float(4 * compared + factors + products)


def _operations_per_second() -> float:
    square = np.ones((_SIZE, _SIZE), np.float32)
    product = square @ square
    start = time.perf_counter()
    np.matmul(square, square, out=product)
    return 2 * _SIZE**3 / max(time.perf_counter() - start, 1e-6)

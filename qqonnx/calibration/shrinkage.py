"""Shrinkage of second moments that are estimated from few samples.

The mean stays. In the correlations about the mean, a prior replaces the share that sampling noise
explains. The prior is the correlations of the weight's columns: training adds multiples of the
inputs to the weight's rows, so WT W resembles the covariance of the inputs.

Sources: Schäfer and Strimmer, *A shrinkage approach to large-scale covariance matrix estimation*,
2005; Radhakrishnan and others, *Mechanism for feature learning in neural networks*, 2024 (WT W).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qqonnx.calibration.gptq import gptq, output_error
from qqonnx.inputs.dataset import evenly_spaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.moments import Moments

    Floats = NDArray[np.float32]

_MIN_SHARE = 0.01
"""Smallest share to replace; it makes the result positive definite."""

_DIVISORS = (1.0, 3.0, 10.0, 30.0)
"""Divisors of the number of independent samples, compared on the holdout."""

_PRIOR_WEIGHTS = (0.0, 0.4, 0.8)
"""Factors of the prior correlations, compared on the holdout."""

_HOLDOUT_LEVELS = 8
"""Number of levels for these comparisons."""

HOLDOUT_ROWS = 64
"""Largest number of groups, and of rows of a group, for these comparisons."""

HOLDOUT_COLUMNS = 1152
"""Largest number of columns for these comparisons."""

_CHUNK = 256
"""Rows of a moment in work at once."""


class Shrinkage(NamedTuple):
    """The amount of shrinkage of second moments.

    Attributes:
        samples: number of independent samples that the moments are worth.
        prior_weight: factor of the prior correlations, 0 to 1.
    """

    samples: float
    prior_weight: float


def shrunk(moment: Floats, mean: Floats, samples: float, prior: Floats | None = None) -> Floats:
    """Return a positive definite estimate of a second moment.

    The variances and the mean stay. A share r of the covariances is replaced by those of the prior.
    Here r is the share of the squared correlations that sampling noise explains, at least 1 %.

    Args:
        moment: E[x xT], float32 [groups, columns, columns].
        mean: E[x], float32 [groups, columns].
        samples: number n of independent samples; a correlation c is assumed to have the variance
            (1 - c^2)^2 / n.
        prior: expected correlations, float32 [groups, columns, columns]; positive semidefinite,
            with a diagonal of at most 1; zeros by default.
    """
    size = np.einsum("gii->gi", moment)
    # Constant inputs have no variance, which would leave their weights undetermined.
    floor = np.float32(1e-4) * size.mean(axis=1, keepdims=True)
    variance = np.maximum(size - np.square(mean), 0) + np.maximum(floor, np.float32(1e-24))
    deviation = np.sqrt(variance)
    correlations = mean[:, :, None] * mean[:, None, :]
    np.subtract(moment, correlations, out=correlations)
    correlations /= deviation[:, :, None]
    correlations /= deviation[:, None, :]
    np.clip(correlations, -1, 1, out=correlations)
    columns = np.arange(moment.shape[1])
    correlations[:, columns, columns] = 1
    total, chance = _squared_sums(correlations)
    explained = chance / max(samples, 1) / np.maximum(total, 1e-12)
    share = np.clip(explained, _MIN_SHARE, 1).astype(np.float32)[:, None, None]
    correlations *= 1 - share
    if prior is not None:
        for rows in _chunks(correlations):
            correlations[:, rows] += share * prior[:, rows]
    correlations[:, columns, columns] = 1
    correlations *= deviation[:, :, None]
    correlations *= deviation[:, None, :]
    for rows in _chunks(correlations):
        correlations[:, rows] += mean[:, rows, None] * mean[:, None, :]
    return np.asarray(correlations)


def _chunks(matrices: Floats) -> Iterator[slice]:
    """Yield the rows of matrices [groups, rows, columns] in chunks, to bound temporary memory."""
    for start in range(0, matrices.shape[1], _CHUNK):
        yield slice(start, start + _CHUNK)


def _squared_sums(correlations: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums over i != j of c^2 and of (1 - c^2)^2, float64 [groups]."""
    total = np.full(len(correlations), -float(correlations.shape[1]))
    chance = np.zeros(len(correlations))
    for rows in _chunks(correlations):
        squared = np.square(correlations[:, rows])
        total += squared.sum(axis=(1, 2), dtype=np.float64)
        chance += np.square(1 - squared).sum(axis=(1, 2), dtype=np.float64)
    return total, chance


def column_correlations(matrix: Floats) -> Floats:
    """Return the correlations between the columns of a matrix.

    Args:
        matrix: float32 [groups, rows, columns].

    Returns:
        float32 [groups, columns, columns].
    """
    centred = matrix - matrix.mean(axis=1, keepdims=True) if matrix.shape[1] > 1 else matrix
    length = np.sqrt(np.square(centred).sum(axis=1, keepdims=True))
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return np.asarray(unit.transpose(0, 2, 1) @ unit)


def shrunk_moment(
    moments: Moments, matrix: Floats, shrinkage: Shrinkage, *, half: bool = False
) -> Floats:
    """Return the shrunk second moment for a weight, float32 [groups, columns, columns].

    Args:
        moments: second moments of the inputs.
        matrix: the weight, float32 [groups, rows, columns].
        shrinkage: the amount of shrinkage.
        half: whether to use only the first half of the samples.
    """
    samples, prior_weight = shrinkage
    prior = None
    if prior_weight:
        prior = column_correlations(matrix)
        prior *= np.float32(prior_weight)
    if half:
        return shrunk(moments.halves[0], moments.means[0], samples / 2, prior)
    return shrunk(*moments.all, samples, prior)


def best_shrinkage(
    moments: Moments, matrix: Floats, sample_weight: float, *, scaled: bool
) -> Shrinkage:
    """Return the shrinkage with the least error on one half of the samples, fitted to the other.

    Some rows and the first columns of the weight stand for all of them.

    Args:
        moments: second moments of the inputs.
        matrix: the weight, float32 [groups, rows, columns].
        sample_weight: number of real samples that a sample is worth.
        scaled: whether each row has a scale.
    """
    groups, rows = _some(len(matrix)), _some(matrix.shape[1])
    columns = slice(HOLDOUT_COLUMNS)
    narrow = matrix[groups][:, :, columns]
    prior = column_correlations(narrow)
    some = np.ascontiguousarray(narrow[:, rows])
    first, second = (half[groups][:, columns, columns] for half in moments.halves)
    mean = moments.means[0][groups][:, columns]

    @cache
    def error(divisor: float, prior_weight: float) -> float:
        samples = moments.samples / divisor / 2
        moment = shrunk(first, mean, samples, prior_weight * prior if prior_weight else None)
        quantized = gptq(some, moment, _HOLDOUT_LEVELS, scaled=scaled, rounds=1)
        return output_error(some, quantized.decoded, second)

    prior_weight = _first_minimum(_PRIOR_WEIGHTS, lambda weight: error(_DIVISORS[0], weight))
    divisor = _first_minimum(_DIVISORS, lambda divisor: error(divisor, prior_weight))
    return Shrinkage(moments.samples / divisor * sample_weight, prior_weight)


def _some(count: int) -> list[int] | slice:
    return slice(None) if count <= HOLDOUT_ROWS else evenly_spaced(count, HOLDOUT_ROWS)


def _first_minimum(values: Sequence[float], error: Callable[[float], float]) -> float:
    """Return the first value whose successor does not have a smaller error."""
    best = values[0]
    for value in values[1:]:
        if error(value) >= error(best):
            break
        best = value
    return best

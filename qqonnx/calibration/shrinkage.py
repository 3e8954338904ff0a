"""Shrinkage of second moments that are estimated from few samples.

The mean stays. In the correlations about the mean, a prior replaces the share that sampling noise
explains. The prior is the correlations of the weight's columns: training adds multiples of the
inputs to the weight's rows, so WT W resembles the covariance of the inputs.

Sources: Schäfer and Strimmer, *A shrinkage approach to large-scale covariance matrix estimation*,
2005; Radhakrishnan and others, *Mechanism for feature learning in neural networks*, 2024 (WT W).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_MIN_SHARE = 0.01
"""Smallest share to replace; it makes the result positive definite."""


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
    squares = mean[:, :, None] * mean[:, None, :]
    covariance = moment - squares
    variance = np.einsum("gii->gi", covariance)
    # Constant inputs have no variance, which would leave their weights undetermined.
    floor = np.float32(1e-4) * np.einsum("gii->gi", moment).mean(axis=1, keepdims=True)
    variance = np.maximum(variance, 0) + np.maximum(floor, np.float32(1e-24))
    deviation = np.sqrt(variance)
    scale = deviation[:, :, None] * deviation[:, None, :]
    squared = np.minimum(np.square(covariance / scale), 1)
    on_diagonal = np.einsum("gii->gi", squared)
    total = squared.sum(axis=(1, 2), dtype=np.float64) - on_diagonal.sum(axis=1)
    chance = np.square(1 - squared).sum(axis=(1, 2), dtype=np.float64)
    chance -= np.square(1 - on_diagonal).sum(axis=1)
    share = np.clip(chance / max(samples, 1) / np.maximum(total, 1e-12), _MIN_SHARE, 1)
    share = share.astype(np.float32)[:, None, None]
    result = covariance * (1 - share)
    if prior is not None:
        result += share * prior * scale
    diagonal = np.arange(moment.shape[1])
    result[:, diagonal, diagonal] = variance
    return np.asarray(result + squares)


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

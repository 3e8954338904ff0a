"""Confidence intervals of shares."""

from __future__ import annotations

from math import sqrt

CONFIDENCE = 0.95

_Z = 1.959963984540054
"""Quantile of the normal distribution that belongs to `CONFIDENCE`, two-sided."""

Interval = tuple[float, float]
"""Lower and upper bound."""


def wilson(share: float, count: float) -> Interval:
    """Return the Wilson score interval of a share of `count` independent observations.

    Source: Wilson, *Probable inference, the law of succession, and statistical inference*, 1927.

    Example:
        >>> [round(bound, 3) for bound in wilson(0.5, 100)]
        [0.404, 0.596]
        >>> [round(bound, 3) for bound in wilson(1.0, 20)]
        [0.839, 1.0]
    """
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    # Rounding must not exclude the share itself.
    return min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share)


def mean_interval(mean: float, variance: float, count: int) -> Interval | None:
    """Return the normal interval of a mean of `count` observations; None for fewer than 2.

    Args:
        mean: the mean.
        variance: unbiased variance of the observations.
        count: number of observations.
    """
    if count < 2:
        return None
    half = _Z * sqrt(variance / count)
    return mean - half, mean + half

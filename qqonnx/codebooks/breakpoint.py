"""Break points of PWLQ from the range and the standard deviation of the weights.

Source: Fang et al., ECCV 2020, section 3 and the published code. Let F and f be the distribution
function and the density at unit variance, and m the range divided by the standard deviation. The
squared error of the non-overlapping scheme (eq. 4) is stationary where

    g(p) = p - 2m + 2m F(p) + m f(p) (2p - m) = 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BISECTIONS = 60


def breakpoint_gauss(m: float, deviation: float) -> float:
    """Return the optimum for normal weights in [-m, m]: the root of g in (0, m/2]."""
    return _root(m, deviation, _gauss)


def breakpoint_laplace(m: float, deviation: float) -> float:
    """Return the optimum for Laplace weights in [-m, m]: the root of g in (0, m/2]."""
    return _root(m, deviation, _laplace)


def breakpoint_closed_form(m: float, deviation: float) -> float:
    """Return the published approximation for normal weights, p = ln(0.8614 m + 0.6079).

    p and m are in units of the standard deviation; the paper prints p/m on the left side, a
    misprint. The approximation is close to the root of g for 3 <= m <= 10. The authors use it
    for every m, and so does this function.
    """
    ratio = m / deviation
    return math.log(0.86143114 * ratio + 0.607901097496529) * deviation


def _gauss(p: float) -> tuple[float, float]:
    return 0.5 * (1 + math.erf(p / math.sqrt(2))), math.exp(-p * p / 2) / math.sqrt(2 * math.pi)


def _laplace(p: float) -> tuple[float, float]:
    tail = math.exp(-math.sqrt(2) * p) / 2
    return 1 - tail, math.sqrt(2) * tail


def _root(m: float, deviation: float, law: Callable[[float], tuple[float, float]]) -> float:
    ratio = m / deviation
    low, high = 0.0, ratio / 2
    for _ in range(_BISECTIONS):
        p = (low + high) / 2
        cumulative, density = law(p)
        slope = p - 2 * ratio * (1 - cumulative) + ratio * density * (2 * p - ratio)
        low, high = (p, high) if slope < 0 else (low, p)
    return high * deviation

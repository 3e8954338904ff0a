"""Levels on an integer grid, for weights that are multiplied as integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.codebooks.codebook import FloatArray

MIN_SHARE = 2.0**-14
"""Smallest normal float16: the smallest scale beside a largest one between 1 and 2."""

_FACTORS = np.linspace(1.0, 0.6, 41)
"""Shares of the grid that the levels are tried to fill."""


def on_grid(levels: FloatArray, limit: int) -> tuple[FloatArray, float]:
    """Return integer levels that are nearly proportional to given ones.

    The factor is the one, of several that fill at least 60 % of the grid, with the least squared
    error of rounding. Levels that round to the same integer are merged.

    Args:
        levels: float [k], ascending.
        limit: largest absolute value of an integer level.

    Returns:
        The integer levels, float64 [k or fewer], ascending, and the step: a level is about the
        step times its integer level.
    """
    largest = float(np.abs(levels).max(initial=0))
    if largest == 0:
        return np.zeros(1), 1.0
    steps = largest / (limit * _FACTORS)
    shares = levels.astype(np.float64) / steps[:, None]
    rounded = np.clip(np.rint(shares), -limit, limit)
    errors = np.square((rounded - shares) * steps[:, None]).sum(axis=1)
    best = int(np.argmin(errors))
    return np.unique(rounded[best]), float(steps[best])


def as_scales(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round scales to float16 times one power of two, so that 16 bits store a scale of any size.

    Args:
        scales: float32 [n], positive.
    """
    unit = _unit(scales)
    shares = np.maximum(scales / unit, MIN_SHARE).astype(np.float16)
    return np.asarray(shares.astype(np.float32) * np.float32(unit))


class ScaleGroup(NamedTuple):
    """Scales of several weights in multiples of one power of two.

    Attributes:
        members: positions of the weights.
        shares: float16, the scales of one weight after the other.
        unit: the power of two.
    """

    members: tuple[int, ...]
    shares: NDArray[np.float16]
    unit: float


def scale_groups(scales: Sequence[NDArray[np.float32]]) -> list[ScaleGroup]:
    """Return the scales of weights, which `as_scales` rounded, in as few groups as are exact.

    Args:
        scales: float32 [channels] of each weight.
    """
    groups: list[list[int]] = []
    units = [_unit(values) for values in scales]
    for member in sorted(range(len(scales)), key=lambda member: units[member]):
        if groups and units[member] <= units[groups[-1][0]] / MIN_SHARE:
            groups[-1].append(member)
        else:
            groups.append([member])
    found = []
    for group in groups:
        # The smallest share of the smallest unit is then a normal float16, and the largest fits.
        unit, members = units[group[0]], tuple(sorted(group))
        shares = np.concatenate([scales[member] for member in members]) / np.float32(unit)
        found.append(ScaleGroup(members, shares.astype(np.float16), unit))
    return found


def _unit(scales: NDArray[np.float32]) -> float:
    """Return the power of two that takes the largest scale to at least 1 and below 2."""
    largest = float(scales.max(initial=0))
    if not 0 < largest < np.inf:
        return 1.0
    exponent = np.floor(np.log2(largest))
    if np.float16(largest / 2.0**exponent) >= 2:
        exponent += 1
    return float(2.0 ** max(exponent, -100))

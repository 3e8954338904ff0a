"""Quantile quantization (QQ): bins of equal mass, each with its mean as the level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.bins import bin_means, thresholds_at
from qqonnx.codebooks.codebook import Codebook
from qqonnx.codebooks.method import Method

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.codebooks.bins import Cuts
    from qqonnx.codebooks.codebook import FloatArray
    from qqonnx.codebooks.sample import Sample


def fit_quantile(sample: Sample, levels: int) -> Codebook:
    """Return the codebook whose bins hold equal shares of the empirical distribution.

    Equal values are never split between bins. A value whose mass exceeds that of a bin gets a
    bin of its own. The few values between two such values join the nearer one if they hold less
    than half a bin. The other bins share the remaining mass equally, so that ties waste no level.

    Source: *Quantile Quantization*, equal-mass bins of the empirical CDF, level = bin mean.
    """
    atoms = sample.atoms
    # Most cuts will fall into the atoms that hold the quantiles; the loop finds the others.
    end = np.cumsum(atoms.mass)
    beside_cuts = np.zeros(end.size, np.bool_)
    beside_cuts[np.searchsorted(end, end[-1] * np.arange(1, levels) / levels)] = True
    while True:
        if not atoms.exact[beside_cuts].all():
            atoms = sample.resolve(atoms, beside_cuts)
        cuts = equal_mass_cuts(atoms.position, atoms.mass, levels)
        beside_cuts = np.zeros(atoms.mass.size, np.bool_)
        beside_cuts[cuts - 1] = beside_cuts[cuts] = True
        if atoms.exact[beside_cuts].all():
            return Codebook(bin_means(atoms, cuts), thresholds_at(atoms, cuts))


def equal_mass_cuts(position: FloatArray, mass: FloatArray, bins: int) -> Cuts:
    """Return the cuts of atoms into bins of about equal mass.

    Args:
        position: [m], ascending positions of the atoms.
        mass: [m], their masses.
        bins: number of bins; none is empty if m >= bins.
    """
    count = mass.size
    if count <= bins:
        return np.arange(1, count)
    share = _bin_mass(mass, bins)
    heavy = np.flatnonzero(mass >= share)
    start = np.concatenate(([0], heavy + 1))
    stop = np.concatenate((heavy, [count]))
    bin_of = np.empty(count, np.intp)
    used, carried = 0, 0.0
    for i, (a, b) in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
        # The light atoms a..b-1 between two heavy ones get a whole number of bins. The rounding
        # error is carried over to the next run.
        due = float(mass[a:b].sum()) / share + carried
        given = min(b - a, int(due + 0.5) if i < heavy.size else bins - used)
        carried = due - given
        if given > 0:
            bin_of[a:b] = used + _equal_split(mass[a:b], given)
        elif b > a:
            bin_of[a:b] = used + _nearer_neighbor(position, a, b)
        used += given
        if i < heavy.size:
            bin_of[b] = used
            used += 1
    return np.flatnonzero(np.diff(bin_of)) + 1


def _bin_mass(mass: FloatArray, bins: int) -> float:
    """Return the bin mass t for which the sum of min(mass, t) is bins × t; len(mass) > bins."""
    total = float(mass.sum())
    share, single = total / bins, 0
    while True:
        # Each atom of at least a bin's mass gets a bin of its own; the others share the rest.
        heavy = mass[mass >= share]
        if not single < heavy.size < bins:
            return share
        single = heavy.size
        share = (total - float(heavy.sum())) / (bins - single)


def _equal_split(mass: FloatArray, bins: int) -> NDArray[np.intp]:
    """Return the bin [m] of each atom: about equal mass, none of 0..bins-1 empty; m >= bins."""
    end = np.cumsum(mass)
    middle = (end - mass / 2) * (bins / end[-1])
    bin_of = np.clip(middle.astype(np.intp), 0, bins - 1)
    bin_of[0], bin_of[-1] = 0, bins - 1
    order = np.arange(mass.size)
    # Limit the steps to one, first from the left, then from the right.
    bin_of = np.minimum.accumulate(bin_of - order) + order
    bin_of[-1] = bins - 1
    return np.maximum.accumulate((bin_of - order)[::-1])[::-1] + order


def _nearer_neighbor(position: FloatArray, a: int, b: int) -> NDArray[np.intp]:
    """Return for atoms a..b-1: -1 to join the heavy atom below, 0 to join the one above, b."""
    if a == 0:
        return np.zeros(b - a, np.intp)
    if b == position.size:
        return np.full(b - a, -1)
    inside = position[a:b]
    return np.where(inside - position[a - 1] <= position[b] - inside, -1, 0)


METHODS = (Method("qq", "quantile: bins of equal mass, level = mean of the bin", fit_quantile),)

"""Quantile quantization: bins of equal mass, with a level in each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.codebook import Codebook, FloatArray, between, nearest
from qqonnx.codebooks.method import Method

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from qqonnx.codebooks.sample import Atoms, Sample


def fit_quantile(sample: Sample, levels: int) -> Codebook:
    """Return the codebook whose bins hold equal shares of the empirical distribution.

    Equal values are never split between bins. A value that alone outweighs a bin has one to
    itself (or with the few values between it and the next such value, if they are less than
    half a bin), and the other bins share the rest of the mass equally: no level is wasted on
    ties.

    Source: *Quantile Quantization*, equal-mass bins of the empirical CDF, level = bin mean.
    """
    atoms = sample.atoms
    # Most cuts will fall into the atoms that hold the quantiles; the loop finds the others.
    end = np.cumsum(atoms.mass)
    wanted = np.zeros(end.size, np.bool_)
    wanted[np.searchsorted(end, end[-1] * np.arange(1, levels) / levels)] = True
    while True:
        if not atoms.exact[wanted].all():
            atoms = sample.resolve(atoms, wanted)
        last = np.flatnonzero(np.diff(equal_mass_bins(atoms, levels)))
        wanted = np.zeros(atoms.mass.size, np.bool_)
        wanted[last] = wanted[last + 1] = True
        if atoms.exact[wanted].all():
            break
    return Codebook(
        bin_means(atoms, last + 1), between(atoms.position[last], atoms.position[last + 1])
    )


def fit_median(sample: Sample, levels: int) -> Codebook:
    """Return QQ's bins, each with its median as level: the least absolute error in the bin."""
    return _midway(sample, levels, _around_median)


def fit_midpoint(sample: Sample, levels: int) -> Codebook:
    """Return QQ's bins, each with the middle of its least and greatest value as level."""
    return _midway(sample, levels, lambda _, edges: (edges[:-1], edges[1:] - 1))


def _midway(
    sample: Sample,
    levels: int,
    ends: Callable[[Atoms, NDArray[np.intp]], tuple[NDArray[np.intp], NDArray[np.intp]]],
) -> Codebook:
    """Return QQ's bins, each with a level midway between two of its atoms.

    Args:
        sample: the values.
        levels: greatest number of levels.
        ends: from atoms and the edges of bins [k + 1] to the two atoms of each bin [k].
    """
    # Values that underflow at the sample's scale are one: no threshold parts them.
    atoms = sample.atoms
    thresholds = parting(atoms, fit_quantile(sample, levels).thresholds)
    while True:
        lower, upper = ends(atoms, bin_edges(atoms, thresholds))
        wanted = sample.unresolved(atoms, thresholds)
        wanted[lower] = wanted[upper] = True
        if atoms.exact[wanted].all():
            break
        atoms = sample.resolve(atoms, wanted)
    return Codebook((atoms.position[lower] + atoms.position[upper]) / 2, thresholds)


def _around_median(
    atoms: Atoms, edges: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    mass, _, _ = atoms.moments
    half = (mass[edges[:-1]] + mass[edges[1:]]) / 2
    # Where half the mass ends with an atom, the median lies midway to the next.
    lower = np.clip(np.searchsorted(mass, half, side="left") - 1, edges[:-1], edges[1:] - 1)
    upper = np.clip(np.searchsorted(mass, half, side="right") - 1, edges[:-1], edges[1:] - 1)
    return lower, upper


def fit_nearest(sample: Sample, levels: int) -> Codebook:
    """Return QQ's levels, but each value goes to the nearest level, whatever its bin."""
    return nearest(fit_quantile(sample, levels).levels)


def mean_levels(sample: Sample, thresholds: FloatArray) -> Codebook:
    """Return the codebook with the mean of each bin as its level.

    Args:
        sample: the values.
        thresholds: [k - 1], ascending; those that part nothing from anything are left out.
    """
    atoms = sample.atoms
    atoms = sample.resolve(atoms, sample.unresolved(atoms, thresholds))
    cuts = np.searchsorted(atoms.position, thresholds, side="right")
    inside = (cuts > 0) & (cuts < atoms.mass.size)
    inside &= np.concatenate((cuts[1:] > cuts[:-1], [True])) if cuts.size else inside
    return Codebook(bin_means(atoms, cuts[inside]), thresholds[inside])


def parting(atoms: Atoms, thresholds: FloatArray) -> FloatArray:
    """Return those of `thresholds`, ascending and distinct, with atoms on both sides."""
    kept = thresholds[(thresholds >= atoms.position[0]) & (thresholds < atoms.position[-1])]
    return np.unique(kept)


def bin_edges(atoms: Atoms, thresholds: FloatArray) -> NDArray[np.intp]:
    """Return the first atom of each bin and the number of atoms, [k + 1]."""
    cuts = np.searchsorted(atoms.position, thresholds, side="right")
    return np.concatenate(([0], cuts, [atoms.mass.size]))


def bin_means(atoms: Atoms, cuts: NDArray[np.intp]) -> FloatArray:
    """Return the mean of each run of atoms between `cuts` [k - 1] (first atoms of bins 1..k-1)."""
    edges = np.concatenate(([0], cuts, [atoms.mass.size]))
    mass, first, _ = atoms.moments
    held = np.diff(mass[edges])
    # Atoms too light to be felt in the running sums have no mass there.
    means = np.divide(np.diff(first[edges]), held, out=np.zeros_like(held), where=held > 0)
    means += atoms.center
    # Rounding must not carry a mean out of its own bin.
    return np.clip(means, atoms.position[edges[:-1]], atoms.position[edges[1:] - 1])


def equal_mass_bins(atoms: Atoms, bins: int) -> NDArray[np.intp]:
    """Return the bin of each atom [m]: ascending, every one of 0..bins-1 used if m >= bins."""
    count = atoms.mass.size
    if count <= bins:
        return np.arange(count)
    share = _bin_mass(atoms.mass, bins)
    heavy = np.flatnonzero(atoms.mass >= share)
    start = np.concatenate(([0], heavy + 1))
    stop = np.concatenate((heavy, [count]))
    result = np.empty(count, np.intp)
    used, owed = 0, 0.0
    for i, (a, b) in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
        # The light atoms a..b-1 between two heavy ones get a whole number of bins; what
        # rounding takes from them or gives them is owed to the next ones.
        due = float(atoms.mass[a:b].sum()) / share + owed
        given = min(b - a, int(due + 0.5) if i < heavy.size else bins - used)
        owed = due - given
        if given > 0:
            result[a:b] = used + _equal_split(atoms.mass[a:b], given)
        elif b > a:
            result[a:b] = used + _nearer_neighbor(atoms.position, a, b)
        used += given
        if i < heavy.size:
            result[b] = used
            used += 1
    return result


def _bin_mass(mass: FloatArray, bins: int) -> float:
    """Return the bin mass t for which the sum of min(mass, t) is bins x t; len(mass) > bins."""
    total = float(mass.sum())
    share, alone = total / bins, 0
    while True:
        # Atoms too heavy to share a bin leave it; the others share what is left.
        heavy = mass[mass >= share]
        if not alone < heavy.size < bins:
            return share
        alone = heavy.size
        share = (total - float(heavy.sum())) / (bins - alone)


def _equal_split(mass: FloatArray, bins: int) -> NDArray[np.intp]:
    """Return ascending bins [m] of about equal mass, none of 0..bins-1 empty; m >= bins."""
    end = np.cumsum(mass)
    middle = (end - mass / 2) * (bins / end[-1])
    result = np.clip(middle.astype(np.intp), 0, bins - 1)
    result[0], result[-1] = 0, bins - 1
    place = np.arange(mass.size)
    # Steps of at most one, first from the left, then from the right.
    result = np.minimum.accumulate(result - place) + place
    result[-1] = bins - 1
    return np.maximum.accumulate((result - place)[::-1])[::-1] + place


def _nearer_neighbor(position: FloatArray, a: int, b: int) -> NDArray[np.intp]:
    """Return -1 for atoms a..b-1 that join the heavy atom below, 0 for those that join b."""
    if a == 0:
        return np.zeros(b - a, np.intp)
    if b == position.size:
        return np.full(b - a, -1)
    inside = position[a:b]
    return np.where(inside - position[a - 1] <= position[b] - inside, -1, 0)


METHODS = (
    Method("qq", "quantile: bins of equal mass, level = mean of the bin", fit_quantile),
    Method("qq-median", "QQ's bins, level = median of the bin", fit_median),
    Method("qq-midpoint", "QQ's bins, level = middle of the bin", fit_midpoint),
    Method("qq-nearest", "QQ's levels, each value to the nearest", fit_nearest),
)

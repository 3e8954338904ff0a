"""Variants of quantile quantization (QQ): other levels for its bins, or other bins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.bins import (
    cell_widths,
    cuts_at,
    edges_of,
    fit_bin_means,
    squared_error,
    thresholds_at,
)
from qqonnx.codebooks.codebook import Codebook, nearest
from qqonnx.codebooks.kmeans import exchange
from qqonnx.codebooks.method import Method
from qqonnx.codebooks.quantile import equal_mass_cuts, fit_quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from qqonnx.codebooks.bins import Cuts
    from qqonnx.codebooks.sample import Atoms, Sample

_TAIL_FRACTION = 8
"""Each tail gets one level in eight."""

_LARGEST_TAIL = 0.25
_TAILS_PER_OCTAVE = 2
"""Shares of the mass tried for a tail: from a quarter down to one atom, in half-octave steps."""

_ALPHAS = np.arange(25) / 24
"""Exponents tried: 0 to 1, with 1/3 among them."""

_LEAST_MEASURE = 2.0**-40
"""Least measure of an atom, relative to the greatest: above the rounding error of their sum."""

_MAX_EXCHANGES = 1000


def fit_median(sample: Sample, levels: int) -> Codebook:
    """Return QQ's bins with the median of each bin as its level: the least absolute error."""
    return _fit_midway(sample, levels, _around_median)


def fit_midpoint(sample: Sample, levels: int) -> Codebook:
    """Return QQ's bins, each with the middle of its least and greatest value as its level."""
    return _fit_midway(sample, levels, lambda _, edges: (edges[:-1], edges[1:] - 1))


def fit_nearest(sample: Sample, levels: int) -> Codebook:
    """Return QQ's levels with nearest-level assignment in place of QQ's bins."""
    return nearest(fit_quantile(sample, levels).levels)


def _fit_midway(
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
    atoms = sample.atoms
    thresholds = fit_quantile(sample, levels).thresholds
    # Values that underflow at the sample's scale are equal there: a threshold between them
    # separates nothing.
    separates = (thresholds >= atoms.position[0]) & (thresholds < atoms.position[-1])
    thresholds = np.unique(thresholds[separates])
    while True:
        cuts = np.searchsorted(atoms.position, thresholds, side="right")
        lower, upper = ends(atoms, edges_of(atoms, cuts))
        needed = sample.unresolved(atoms, thresholds)
        needed[lower] = needed[upper] = True
        if atoms.exact[needed].all():
            return Codebook((atoms.position[lower] + atoms.position[upper]) / 2, thresholds)
        atoms = sample.resolve(atoms, needed)


def _around_median(
    atoms: Atoms, edges: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    mass, _, _ = atoms.moments
    half = (mass[edges[:-1]] + mass[edges[1:]]) / 2
    # If an atom ends at exactly half the mass, the median lies midway to the next atom.
    lower = np.clip(np.searchsorted(mass, half, side="left") - 1, edges[:-1], edges[1:] - 1)
    upper = np.clip(np.searchsorted(mass, half, side="right") - 1, edges[:-1], edges[1:] - 1)
    return lower, upper


def fit_tails(sample: Sample, levels: int) -> Codebook:
    """Return QQ with levels reserved for outliers: one level in eight for each tail.

    Both tails hold the same share of the mass. The share with the least squared error is taken,
    as for the break point of PWLQ; without an improvement the result is QQ. Bins have equal
    width in the tails and equal mass between them. Levels are the means of the bins.
    """
    atoms = _with_quantiles_resolved(sample, levels)
    in_tail = max(levels // _TAIL_FRACTION, 1)
    candidates = [equal_mass_cuts(atoms.position, atoms.mass, levels)]
    if levels > 2 * in_tail:
        candidates.extend(_cuts_with_tails(atoms, levels, in_tail))
    return _best(sample, atoms, candidates)


def _cuts_with_tails(atoms: Atoms, levels: int, in_tail: int) -> Iterable[Cuts]:
    end = np.cumsum(atoms.mass)
    x = atoms.position
    share = _LARGEST_TAIL
    while share * end.size >= 1:
        low, high = np.searchsorted(end, [share * end[-1], (1 - share) * end[-1]], side="left")
        # The first atom between the tails, and the first atom of the upper tail.
        first, last = int(low), min(int(high) + 1, end.size)
        share *= 0.5 ** (1 / _TAILS_PER_OCTAVE)
        if first < 1 or last >= end.size:
            continue
        inner = equal_mass_cuts(x[first:last], atoms.mass[first:last], levels - 2 * in_tail)
        below = np.linspace(x[0], x[first], in_tail + 1)[1:-1]
        above = np.linspace(x[last - 1], x[-1], in_tail + 1)[1:-1]
        cuts = (
            np.searchsorted(x, below, side="right"),
            [first],
            inner + first,
            [last],
            np.searchsorted(x, above, side="right"),
        )
        yield np.unique(np.concatenate(cuts))


def fit_alpha(sample: Sample, levels: int) -> Codebook:
    """Return bins whose density is proportional to f^α, where f is the density of the values.

    α = 0 gives bins of equal width, as UQ does; α = 1 gives bins of equal mass, as QQ does. For
    many levels, α = 1/3 has the least squared error (Panter and Dite, 1951). Of 25 exponents
    from 0 to 1, the one with the least squared error is taken. Levels are the means of the bins.
    """
    atoms = _with_quantiles_resolved(sample, levels)
    return _best(sample, atoms, [alpha_cuts(atoms, levels, float(alpha)) for alpha in _ALPHAS])


def fit_at_alpha(sample: Sample, levels: int, alpha: float) -> Codebook:
    """Return the codebook of `fit_alpha` for a given exponent, 0 to 1."""
    atoms = _with_quantiles_resolved(sample, levels)
    return _best(sample, atoms, [alpha_cuts(atoms, levels, alpha)])


def alpha_cuts(atoms: Atoms, levels: int, alpha: float) -> Cuts:
    """Return the cuts of `atoms` into bins whose density is proportional to f^α."""
    # The density of an atom is its mass divided by the width of its cell.
    measure = atoms.mass**alpha * cell_widths(atoms) ** (1 - alpha)
    measure = np.maximum(measure, measure.max() * _LEAST_MEASURE)
    return equal_mass_cuts(atoms.position, measure, levels)


def fit_greedy(sample: Sample, levels: int) -> Codebook:
    """Return QQ's bins after greedy refinement of the squared error.

    Each exchange merges the two neighboring bins whose merging costs least, and splits at its
    mean the bin whose splitting gains most, as long as the error falls. Levels are the means of
    the bins.
    """
    atoms = _with_quantiles_resolved(sample, levels)
    cuts = cuts_at(atoms, fit_quantile(sample, levels).thresholds)
    for _ in range(_MAX_EXCHANGES):
        moved = exchange(atoms, cuts, levels)
        if moved is None:
            break
        cuts = moved
    return _best(sample, atoms, [cuts])


def _with_quantiles_resolved(sample: Sample, levels: int) -> Atoms:
    """Return the sample's atoms, with those that contain a threshold of QQ resolved."""
    thresholds = fit_quantile(sample, levels).thresholds
    return sample.resolve(sample.atoms, sample.unresolved(sample.atoms, thresholds))


def _best(sample: Sample, atoms: Atoms, candidates: list[Cuts]) -> Codebook:
    """Return the codebook of the cuts with the least squared error."""
    cuts = min(candidates, key=lambda cuts: squared_error(atoms, cuts))
    return fit_bin_means(sample, thresholds_at(atoms, cuts))


METHODS = (
    Method("qq-median", "QQ's bins, level = median of the bin", fit_median),
    Method("qq-midpoint", "QQ's bins, level = middle of the bin", fit_midpoint),
    Method("qq-nearest", "QQ's levels, each value to the nearest", fit_nearest),
    Method("qq-tails", "QQ with levels reserved for outliers at both ends", fit_tails),
    Method("qq-alpha", "levels as dense as f^α, α between UQ's 0 and QQ's 1 by error", fit_alpha),
    Method("qq-greedy", "QQ's bins refined: merge and split while the error falls", fit_greedy),
)

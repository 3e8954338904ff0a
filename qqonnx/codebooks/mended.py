"""Quantile quantization mended: bins of equal mass where they serve, others where they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.codebook import Codebook, between
from qqonnx.codebooks.kmeans import exchange
from qqonnx.codebooks.method import Method
from qqonnx.codebooks.quantile import bin_edges, equal_mass_bins, fit_quantile, mean_levels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from qqonnx.codebooks.sample import Atoms, Sample

    Cuts = NDArray[np.intp]

_TAIL_PART = 8
"""An eighth of the levels is reserved for each tail."""

_LARGEST_TAIL = 0.25
_TAILS_AN_OCTAVE = 2
"""Shares of the values that a tail may hold: a quarter, and half-octave steps down to one value."""

_ALPHAS = np.arange(25) / 24
"""The exponents tried: 0 and 1, and a third among them."""

_LEAST_MEASURE = 2.0**-40
"""Atoms count for at least this part of the greatest one: more than rounding of their sum."""

_EXCHANGES = 1000


def fit_tails(sample: Sample, levels: int) -> Codebook:
    """Return QQ with levels reserved for outliers: an eighth of them for each tail.

    The tails hold equal shares of the mass; as PWLQ's break point, the share is the one of
    least squared error. Bins are of equal width in the tails and of equal mass between them,
    levels the means of the bins. Where no tails are better, it is QQ itself.
    """
    atoms = _with_quantiles_resolved(sample, levels)
    plain = np.flatnonzero(np.diff(equal_mass_bins(atoms, levels))) + 1
    in_tail = max(levels // _TAIL_PART, 1)
    candidates = [plain]
    if levels > 2 * in_tail:
        candidates.extend(_with_tails(atoms, levels, in_tail))
    return _best(sample, atoms, candidates)


def _with_tails(atoms: Atoms, levels: int, in_tail: int) -> Iterable[Cuts]:
    end = np.cumsum(atoms.mass)
    x = atoms.position
    share = _LARGEST_TAIL
    while share * end.size >= 1:
        low, high = np.searchsorted(end, [share * end[-1], (1 - share) * end[-1]], side="left")
        # The first atom between the tails, and the first of the upper tail.
        first, last = int(low), min(int(high) + 1, end.size)
        share *= 0.5 ** (1 / _TAILS_AN_OCTAVE)
        if first < 1 or last >= end.size:
            continue
        middle = replace(
            atoms,
            position=x[first:last],
            mass=atoms.mass[first:last],
            rank=atoms.rank[first:last],
            exact=atoms.exact[first:last],
        )
        inner = np.flatnonzero(np.diff(equal_mass_bins(middle, levels - 2 * in_tail))) + 1
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
    """Return bins for a density of levels that goes with f^α, f the density of the values.

    α = 0 gives bins of equal width as UQ, α = 1 of equal mass as QQ; about 1/3 is best for the
    squared error of many levels (Panter and Dite, 1951). The α of 25 from 0 to 1 with the least
    squared error is taken. Levels are the means of the bins.
    """
    atoms = _with_quantiles_resolved(sample, levels)
    return _best(sample, atoms, [alpha_cuts(atoms, levels, float(alpha)) for alpha in _ALPHAS])


def fit_at_alpha(sample: Sample, levels: int, alpha: float) -> Codebook:
    """Return `fit_alpha`'s codebook for a given exponent, 0 to 1."""
    atoms = _with_quantiles_resolved(sample, levels)
    return _best(sample, atoms, [alpha_cuts(atoms, levels, alpha)])


def alpha_cuts(atoms: Atoms, levels: int, alpha: float) -> Cuts:
    """Return the first atoms of all bins but the lowest, for levels as dense as f^α."""
    x = atoms.position
    edges = np.concatenate((x[:1], (x[1:] + x[:-1]) / 2, x[-1:]))
    # An atom's density is its mass over the width of its stretch.
    measure = atoms.mass**alpha * np.diff(edges) ** (1 - alpha)
    measure = np.maximum(measure, measure.max() * _LEAST_MEASURE)
    return np.flatnonzero(np.diff(equal_mass_bins(replace(atoms, mass=measure), levels))) + 1


def fit_greedy(sample: Sample, levels: int) -> Codebook:
    """Return QQ's bins after greedy refinement of the squared error.

    As long as that lowers the error, the two neighboring bins that differ least become one and
    the bin that gains most is cut at its mean. Levels are the means of the bins.
    """
    book = fit_quantile(sample, levels)
    atoms = sample.resolve(sample.atoms, sample.unresolved(sample.atoms, book.thresholds))
    cuts = np.unique(bin_edges(atoms, book.thresholds)[1:-1])
    cuts = cuts[(cuts > 0) & (cuts < atoms.mass.size)]
    for _ in range(_EXCHANGES):
        moved = exchange(atoms, cuts, levels)
        if moved is None:
            break
        cuts = moved
    return _best(sample, atoms, [cuts])


def _with_quantiles_resolved(sample: Sample, levels: int) -> Atoms:
    """Return the sample's atoms with those that QQ's thresholds cut resolved."""
    thresholds = fit_quantile(sample, levels).thresholds
    return sample.resolve(sample.atoms, sample.unresolved(sample.atoms, thresholds))


def _best(sample: Sample, atoms: Atoms, candidates: list[Cuts]) -> Codebook:
    """Return the codebook of the candidate with the least squared error."""
    cuts = min(candidates, key=lambda cuts: _squared_error(atoms, cuts))
    return mean_levels(sample, between(atoms.position[cuts - 1], atoms.position[cuts]))


def _squared_error(atoms: Atoms, cuts: Cuts) -> float:
    """Return the sum of squared errors of the bins' means."""
    edges = np.concatenate(([0], cuts, [atoms.mass.size]))
    mass, first, second = (np.diff(running[edges]) for running in atoms.moments)
    # Importance beyond the sums' precision vanishes from them.
    square = np.divide(first * first, mass, out=np.zeros_like(mass), where=mass > 0)
    return float((second - square).sum())


METHODS = (
    Method("qq-tails", "QQ with levels reserved for outliers at both ends", fit_tails),
    Method("qq-alpha", "levels as dense as f^α, α between UQ's 0 and QQ's 1 by error", fit_alpha),
    Method("qq-greedy", "QQ's bins refined: merge and split while the error falls", fit_greedy),
)

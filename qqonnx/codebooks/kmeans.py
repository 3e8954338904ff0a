"""K-means: the levels with the least (weighted) squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.bins import bin_means, cell_widths, cuts_at, edges_of, squared_error
from qqonnx.codebooks.codebook import Codebook, FloatArray, nearest
from qqonnx.codebooks.density import density_of, descend
from qqonnx.codebooks.method import Method
from qqonnx.codebooks.sample import Atoms
from qqonnx.codebooks.segmentation import best_cuts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.codebooks.bins import Cuts
    from qqonnx.codebooks.sample import Sample

_CELLS = 512
_MANY_LEVELS = 64
"""Up to this many levels start from the exact optimum over `_CELLS` cells (0.1 ms per level)."""

_EXACT_UP_TO = 1 << 15
"""Greatest product of distinct values and levels for the exact optimum (10 ms)."""

_EXACT_UP_TO_WITH_MANY_LEVELS = 1 << 19
"""The same for more than `_MANY_LEVELS` levels, which have a worse start (100 ms)."""

_KEY_WIDTH = 2.0**-7
"""Greatest width of a key, relative to its values (`keys.py`)."""

_COARSE = 1 / 12
"""Keys wider than this share of the distance between two levels are resolved at the threshold.
Counting a narrower key on the wrong side raises the error by less than a thousandth."""

_RESOLUTIONS = 3
_DESCENT_STEPS = 60
_LLOYD_STEPS = 20
_EXCHANGES = 40
_EXCHANGE_STEPS = 5


def fit_kmeans(sample: Sample, levels: int) -> Codebook:
    """Return the codebook of least squared error.

    Small inputs get the exact optimum (`segmentation.py`). Large inputs start from the optimum
    over a few hundred cells, or from Panter-Dite levels if there are many. Newton steps on the
    density of the values follow, then exchanges and Lloyd steps on the atoms. Where keys are
    coarse, atoms are resolved to distinct values at the thresholds, so that each level is the
    mean of the values nearest to it.
    """
    atoms = sample.atoms
    if atoms.mass.size <= levels:
        return nearest(atoms.position)
    many = levels > _MANY_LEVELS
    exact_up_to = _EXACT_UP_TO_WITH_MANY_LEVELS if many else _EXACT_UP_TO
    if atoms.exact.all() and atoms.mass.size * levels <= exact_up_to:
        return nearest(bin_means(atoms, best_cuts(atoms, levels)))
    centers = _panter_dite(atoms, levels) if many else _optimum_over_cells(atoms, levels)
    for _ in range(_RESOLUTIONS):
        centers = _descended(atoms, centers)
        thresholds = nearest(centers).thresholds
        coarse = np.abs(thresholds) * _KEY_WIDTH > _COARSE * np.diff(centers)
        unresolved = sample.unresolved(atoms, thresholds[coarse])
        if unresolved.sum() <= levels // 8:
            break
        atoms = sample.resolve(atoms, unresolved)
    centers = _exchanged(atoms, _lloyd(atoms, centers, _LLOYD_STEPS), levels)
    return nearest(centers)


def approximate_levels(values: FloatArray, mass: FloatArray, levels: int) -> FloatArray:
    """Return levels near those of k-means, [k] with k <= `levels`.

    They are those of Panter and Dite after Lloyd steps: much faster than `fit_kmeans`.

    Args:
        values: float64 [n].
        mass: weight of each value, float64 [n], not negative and not all zero.
        levels: largest number of levels.
    """
    atoms = _sorted_atoms(values, mass)
    return _lloyd_levels(atoms, np.cumsum(_level_measure(atoms)), levels)


def approximate_errors(values: FloatArray, mass: FloatArray, counts: Sequence[int]) -> list[float]:
    """Return the squared errors of `approximate_levels` for several numbers of levels.

    Args:
        values: float64 [n].
        mass: weight of each value, float64 [n], not negative and not all zero.
        counts: numbers of levels.
    """
    atoms = _sorted_atoms(values, mass)
    measure = np.cumsum(_level_measure(atoms))
    errors = []
    for levels in counts:
        centers = _lloyd_levels(atoms, measure, levels)
        errors.append(max(squared_error(atoms, _nearest_cuts(atoms, centers)), 0.0))
    return errors


def _sorted_atoms(values: FloatArray, mass: FloatArray) -> Atoms:
    order = np.argsort(values, kind="stable")
    rank = np.zeros(values.size, np.uint16)
    return Atoms(values[order], mass[order], rank, np.ones(values.size, np.bool_))


def _lloyd_levels(atoms: Atoms, measure: FloatArray, levels: int) -> FloatArray:
    """Return levels at equal steps of the running level measure, after Lloyd steps."""
    steps = (np.arange(levels) + 0.5) * (measure[-1] / levels)
    centers = np.unique(np.interp(steps, measure, atoms.position))
    return _lloyd(atoms, centers, _LLOYD_STEPS)


def _optimum_over_cells(atoms: Atoms, levels: int) -> FloatArray:
    """Return the levels of least squared error after the atoms are merged into cells."""
    measure = np.cumsum(_level_measure(atoms))
    mass = np.cumsum(atoms.mass)
    count = np.arange(1, mass.size + 1)
    # Cells are narrow where levels will be dense, where the mass is, and where the atoms are.
    share = measure / measure[-1] + mass / mass[-1] + count / mass.size
    cell = np.floor(share * (_CELLS / 3))
    first = np.flatnonzero(np.concatenate(([True], cell[1:] != cell[:-1])))
    cell_mass = np.add.reduceat(atoms.mass, first)
    position = np.add.reduceat(atoms.mass * atoms.position, first) / cell_mass
    cells = Atoms(position, cell_mass, atoms.rank[first], np.zeros(first.size, np.bool_))
    if first.size <= levels:
        return position
    return bin_means(cells, best_cuts(cells, levels))


def _panter_dite(atoms: Atoms, levels: int) -> FloatArray:
    """Return levels at equal steps of the level measure, improved by exchanges."""
    measure = np.cumsum(_level_measure(atoms))
    steps = (np.arange(levels) + 0.5) * (measure[-1] / levels)
    centers = _lloyd(atoms, np.interp(steps, measure, atoms.position), _EXCHANGE_STEPS)
    return _exchanged(atoms, centers, levels)


def _exchanged(atoms: Atoms, centers: FloatArray, levels: int) -> FloatArray:
    """Return `centers` after exchanges that lower the error, filled up to `levels`."""
    for _ in range(_EXCHANGES):
        cuts = exchange(atoms, _nearest_cuts(atoms, centers), levels)
        if cuts is None:
            break
        centers = _lloyd(atoms, bin_means(atoms, cuts), _EXCHANGE_STEPS)
    return centers


def _level_measure(atoms: Atoms) -> FloatArray:
    """Return the number of levels that each atom's cell should hold, up to a factor.

    The best density of levels is proportional to the cube root of the density of the values
    (Panter and Dite, *Quantization distortion in pulse-count modulation*, 1951).
    """
    measure: FloatArray = np.cbrt(atoms.mass * cell_widths(atoms) ** 2)
    return measure


def exchange(atoms: Atoms, cuts: Cuts, levels: int) -> Cuts | None:
    """Return `cuts` with the least useful ones moved to where they help most; None if none helps.

    The cost of a cut is the rise of the squared error without it. The gain of a bin is the fall
    of the error if the bin is cut at its mean. Cuts of least cost move to the bins of greatest
    gain, as long as the gain exceeds the cost and no bin is changed twice. Unused cuts, if there
    are fewer than `levels` bins, go to the bins of greatest gain.
    """
    edges = edges_of(atoms, cuts)
    mean = bin_means(atoms, cuts)
    inside = np.searchsorted(atoms.position, mean, side="right")
    inside = np.clip(inside, edges[:-1] + 1, np.maximum(edges[1:] - 1, edges[:-1] + 1))
    gain = np.where(np.diff(edges) > 1, _error_drop(atoms, edges[:-1], inside, edges[1:]), 0.0)
    cost = _error_drop(atoms, edges[:-2], edges[1:-1], edges[2:])
    receivers = np.argsort(-gain, kind="stable")
    free = levels - mean.size
    added = receivers[:free][gain[receivers[:free]] > 0].tolist()
    removed = []
    changed = np.zeros(mean.size, np.bool_)
    changed[added] = True
    donors = iter(np.argsort(cost, kind="stable").tolist())
    for receiver in receivers[free:].tolist():
        if changed[receiver]:
            continue
        changed[receiver] = True
        donor = next((d for d in donors if not changed[d : d + 2].any()), None)
        if donor is None or gain[receiver] <= cost[donor]:
            break
        changed[donor : donor + 2] = True
        added.append(receiver)
        removed.append(donor)
    if not added:
        return None
    return np.sort(np.concatenate((np.delete(cuts, removed), inside[added])))


def _error_drop(
    atoms: Atoms, start: NDArray[np.intp], cut: NDArray[np.intp], stop: NDArray[np.intp]
) -> FloatArray:
    """Return the fall of the squared error when each run of atoms start..stop-1 is cut at `cut`."""
    mass, first, _ = atoms.moments
    below, above = mass[cut] - mass[start], mass[stop] - mass[cut]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (first[stop] - first[cut]) / above - (first[cut] - first[start]) / below
        drop: FloatArray = below * above / (below + above) * distance * distance
    return drop


def _descended(atoms: Atoms, centers: FloatArray) -> FloatArray:
    return descend(density_of(atoms), centers - atoms.center, _DESCENT_STEPS) + atoms.center


def _lloyd(atoms: Atoms, centers: FloatArray, steps: int) -> FloatArray:
    """Return `centers` after at most `steps` Lloyd steps; centers without atoms are dropped."""
    for _ in range(steps):
        moved = bin_means(atoms, _nearest_cuts(atoms, centers))
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers


def _nearest_cuts(atoms: Atoms, centers: FloatArray) -> Cuts:
    """Return the cuts halfway between neighboring `centers`."""
    return cuts_at(atoms, nearest(centers).thresholds)


METHODS = (Method("kmeans", "k-means: least squared error", fit_kmeans),)

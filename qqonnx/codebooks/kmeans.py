"""K-means: the levels with the least (weighted) squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.codebook import Codebook, FloatArray, nearest
from qqonnx.codebooks.density import density_of, descend
from qqonnx.codebooks.method import Method
from qqonnx.codebooks.quantile import bin_means
from qqonnx.codebooks.sample import Atoms
from qqonnx.codebooks.segmentation import best_cuts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.codebooks.sample import Sample

_SEARCHED_LEVELS = 64
"""Levels up to which the start is the exact optimum over `_CELLS` cells (some 0.1 ms a level)."""

_CELLS = 512

_EXACT_UP_TO = 1 << 15
"""Distinct values x levels up to which the exact optimum is computed (some 10 ms)."""

_EXACT_UP_TO_WITH_MANY_LEVELS = 1 << 19
"""The same for more levels than `_SEARCHED_LEVELS`, whose start is less good (some 100 ms)."""

_KEY_WIDTH = 2.0**-7
"""Greatest width of a key, as a share of its values (`keys.py`)."""

_FINE_ENOUGH = 1 / 12
"""Keys up to this share of the distance between two levels need not be resolved: whichever side
a threshold's own key is counted on, the error rises by less than a thousandth."""

_RESOLUTIONS = 3
_DESCENT_STEPS = 60
_LLOYD_STEPS = 20
_EXCHANGES = 40
_EXCHANGE_STEPS = 5


def fit_kmeans(sample: Sample, levels: int) -> Codebook:
    """Return the codebook of least squared error.

    Small inputs: the exact optimum (`segmentation.py`). Large ones: the optimum over a few
    hundred cells, or a Panter-Dite start for many levels; Newton steps on the density of the
    values; then exchanges and Lloyd steps on atoms, resolved to distinct values at thresholds
    where keys are coarse, so that each level is the mean of the values nearest to it.
    """
    atoms = sample.atoms
    searched = levels <= _SEARCHED_LEVELS
    if atoms.mass.size <= levels:
        return nearest(atoms.position)
    exact_up_to = _EXACT_UP_TO if searched else _EXACT_UP_TO_WITH_MANY_LEVELS
    if atoms.exact.all() and atoms.mass.size * levels <= exact_up_to:
        return nearest(bin_means(atoms, best_cuts(atoms, levels)))
    centers = _searched(atoms, levels) if searched else _panter_dite(atoms, levels)
    for _ in range(_RESOLUTIONS):
        centers = _descended(atoms, centers)
        thresholds = nearest(centers).thresholds
        coarse = np.abs(thresholds) * _KEY_WIDTH > _FINE_ENOUGH * np.diff(centers)
        unresolved = sample.unresolved(atoms, thresholds[coarse])
        if unresolved.sum() <= levels // 8:
            break
        atoms = sample.resolve(atoms, unresolved)
    centers = _exchanged(atoms, _lloyd(atoms, centers, _LLOYD_STEPS), levels)
    return nearest(centers)


def _searched(atoms: Atoms, levels: int) -> FloatArray:
    """Return the levels of least error for the atoms merged into cells."""
    measure = np.cumsum(_level_measure(atoms))
    mass = np.cumsum(atoms.mass)
    place = np.arange(1, mass.size + 1)
    # Cells are fine where levels will be dense, where the mass is, and where the atoms are.
    share = measure / measure[-1] + mass / mass[-1] + place / mass.size
    cell = np.floor(share * (_CELLS / 3))
    first = np.flatnonzero(np.concatenate(([True], cell[1:] != cell[:-1])))
    cell_mass = np.add.reduceat(atoms.mass, first)
    position = np.add.reduceat(atoms.mass * atoms.position, first) / cell_mass
    cells = Atoms(position, cell_mass, atoms.rank[first], np.zeros(first.size, np.bool_))
    if first.size <= levels:
        return position
    return bin_means(cells, best_cuts(cells, levels))


def _panter_dite(atoms: Atoms, levels: int) -> FloatArray:
    """Return levels at equal shares of the level measure, improved by exchanges."""
    measure = np.cumsum(_level_measure(atoms))
    at = (np.arange(levels) + 0.5) * (measure[-1] / levels)
    centers = _lloyd(atoms, np.interp(at, measure, atoms.position), _EXCHANGE_STEPS)
    return _exchanged(atoms, centers, levels)


def _exchanged(atoms: Atoms, centers: FloatArray, levels: int) -> FloatArray:
    """Return `centers` moved about, and filled up to `levels`, while that lowers the error."""
    for _ in range(_EXCHANGES):
        cuts = exchange(atoms, _cuts(atoms, centers), levels)
        if cuts is None:
            break
        centers = _lloyd(atoms, bin_means(atoms, cuts), _EXCHANGE_STEPS)
    return centers


def _level_measure(atoms: Atoms) -> FloatArray:
    """Return the share of the levels that each atom's stretch deserves, up to a factor.

    The best density of levels goes with the cube root of the density of the values (Panter
    and Dite, *Quantization distortion in pulse-count modulation*, 1951).
    """
    x = atoms.position
    edges = np.concatenate((x[:1], (x[1:] + x[:-1]) / 2, x[-1:]))
    measure: FloatArray = np.cbrt(atoms.mass * np.diff(edges) ** 2)
    return measure


def exchange(atoms: Atoms, cuts: NDArray[np.intp], levels: int) -> NDArray[np.intp] | None:
    """Return `cuts` with the least useful moved to where they help most; None if none would.

    Every cut has a cost, by which the error would rise without it, and every bin a gain, by
    which the error would fall if it were cut at its mean. Cuts of the least cost move to the
    bins of the greatest gain, as long as the gain is the greater and no bin is touched twice.
    """
    edges = np.concatenate(([0], cuts, [atoms.mass.size]))
    mean = bin_means(atoms, cuts)
    inside = np.searchsorted(atoms.position, mean, side="right")
    inside = np.clip(inside, edges[:-1] + 1, np.maximum(edges[1:] - 1, edges[:-1] + 1))
    gain = np.where(np.diff(edges) > 1, _parting(atoms, edges[:-1], inside, edges[1:]), 0.0)
    cost = _parting(atoms, edges[:-2], edges[1:-1], edges[2:])
    receivers = np.argsort(-gain, kind="stable")
    free = levels - mean.size
    added = receivers[:free][gain[receivers[:free]] > 0].tolist()
    removed = []
    touched = np.zeros(mean.size, np.bool_)
    touched[added] = True
    donors = iter(np.argsort(cost, kind="stable").tolist())
    for receiver in receivers[free:].tolist():
        if touched[receiver]:
            continue
        touched[receiver] = True
        donor = next((d for d in donors if not touched[d : d + 2].any()), None)
        if donor is None or gain[receiver] <= cost[donor]:
            break
        touched[donor : donor + 2] = True
        added.append(receiver)
        removed.append(donor)
    if not added:
        return None
    return np.sort(np.concatenate((np.delete(cuts, removed), inside[added])))


def _parting(
    atoms: Atoms, start: NDArray[np.intp], cut: NDArray[np.intp], stop: NDArray[np.intp]
) -> FloatArray:
    """Return by how much cutting each run of atoms start..stop-1 at `cut` lowers the error."""
    mass, first, _ = atoms.moments
    below, above = mass[cut] - mass[start], mass[stop] - mass[cut]
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (first[stop] - first[cut]) / above - (first[cut] - first[start]) / below
        lowered: FloatArray = below * above / (below + above) * apart * apart
    return lowered


def _descended(atoms: Atoms, centers: FloatArray) -> FloatArray:
    return descend(density_of(atoms), centers - atoms.center, _DESCENT_STEPS) + atoms.center


def _lloyd(atoms: Atoms, centers: FloatArray, steps: int) -> FloatArray:
    """Return the means of the atoms nearest to each of `centers`, after `steps` rounds."""
    for _ in range(steps):
        moved = bin_means(atoms, _cuts(atoms, centers))
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers


def _cuts(atoms: Atoms, centers: FloatArray) -> NDArray[np.intp]:
    """Return the first atoms of all bins but the lowest; bins without atoms are left out."""
    cuts = np.unique(np.searchsorted(atoms.position, nearest(centers).thresholds, side="right"))
    return cuts[(cuts > 0) & (cuts < atoms.mass.size)]


METHODS = (Method("kmeans", "k-means: least squared error", fit_kmeans),)

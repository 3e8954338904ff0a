"""Bins of atoms: the runs between cuts, with their means and errors.

A *cut* is the index of the first atom of a bin. The lowest bin has none, so k bins have k - 1
cuts and k + 1 edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.codebook import Codebook, FloatArray, between

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.codebooks.sample import Atoms, Sample

    Cuts = NDArray[np.intp]


def cuts_at(atoms: Atoms, thresholds: FloatArray) -> Cuts:
    """Return the cuts at `thresholds`, ascending; thresholds that leave a bin empty are dropped."""
    cuts = np.unique(np.searchsorted(atoms.position, thresholds, side="right"))
    return cuts[(cuts > 0) & (cuts < atoms.mass.size)]


def thresholds_at(atoms: Atoms, cuts: Cuts) -> FloatArray:
    """Return the thresholds [k - 1] midway between the atoms on both sides of each cut."""
    return between(atoms.position[cuts - 1], atoms.position[cuts])


def edges_of(atoms: Atoms, cuts: Cuts) -> NDArray[np.intp]:
    """Return the first atom of each bin and the number of atoms, [k + 1]."""
    return np.concatenate(([0], cuts, [atoms.mass.size]))


def bin_means(atoms: Atoms, cuts: Cuts) -> FloatArray:
    """Return the mean [k] of each bin."""
    edges = edges_of(atoms, cuts)
    mass, first, _ = atoms.moments
    bin_mass = np.diff(mass[edges])
    # Atoms too light to change the running sums have no mass there.
    means = np.divide(np.diff(first[edges]), bin_mass, np.zeros_like(bin_mass), where=bin_mass > 0)
    means += atoms.center
    # Rounding must not carry a mean out of its own bin.
    return np.clip(means, atoms.position[edges[:-1]], atoms.position[edges[1:] - 1])


def squared_error(atoms: Atoms, cuts: Cuts) -> float:
    """Return the sum of squared errors when each bin is replaced by its mean."""
    edges = edges_of(atoms, cuts)
    mass, first, second = (np.diff(running[edges]) for running in atoms.moments)
    return float((second - explained_square(first, mass)).sum())


def explained_square(first: FloatArray, mass: FloatArray) -> FloatArray:
    """Return first^2 / mass: the part of the second moment of a run that its mean explains.

    A run too light to change the running sums has no mass; the result is 0 there.
    """
    return np.divide(first * first, mass, out=np.zeros_like(mass), where=mass > 0)


def fit_bin_means(sample: Sample, thresholds: FloatArray) -> Codebook:
    """Return the codebook with the mean of each bin as its level.

    Args:
        sample: the values.
        thresholds: [k - 1], ascending; those that leave a bin empty are dropped.
    """
    atoms = sample.atoms
    atoms = sample.resolve(atoms, sample.unresolved(atoms, thresholds))
    cuts = np.searchsorted(atoms.position, thresholds, side="right")
    kept = (cuts > 0) & (cuts < atoms.mass.size)
    kept[:-1] &= cuts[1:] > cuts[:-1]
    return Codebook(bin_means(atoms, cuts[kept]), thresholds[kept])


def cell_widths(atoms: Atoms) -> FloatArray:
    """Return the width [m] of each atom's cell, which ends halfway to its neighbors."""
    x = atoms.position
    return np.diff(np.concatenate((x[:1], (x[1:] + x[:-1]) / 2, x[-1:])))

"""The density of a sample, smooth enough for Newton steps towards the k-means optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from qqonnx.codebooks.codebook import FloatArray
    from qqonnx.codebooks.sample import Atoms

_RELATIVE_TOLERANCE = 1e-6
"""The descent ends when a step lowers the error by less than this share of it."""

_MAX_DAMPING = 100.0
"""The descent ends when even steps a hundred times shorter than Lloyd's do not lower the error."""


@dataclass(frozen=True)
class Density:
    """A piecewise constant density: each atom spread over its cell.

    The cell ends halfway to the neighbors. The density is constant on each side of the atom, and
    the two masses keep the atom's mean. Positions are relative to the middle atom, as in
    `Atoms.moments`.

    Attributes:
        points: float64 [2m + 1], ascending: ends of the cells and atoms, alternating.
        mass: float64 [2m + 1], mass below each point, counted from the middle atom.
        first: float64 [2m + 1], first moment below each point, counted from the middle atom.
        scatter: sum of squares of the atoms.
    """

    points: FloatArray
    mass: FloatArray
    first: FloatArray
    scatter: float

    def below(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the mass and the first moment below each of `x`."""
        i = np.searchsorted(self.points[1:-1], x, side="right")
        start = self.points[i]
        width = self.points[i + 1] - start
        share = np.divide(x - start, width, out=np.ones_like(x), where=width > 0)
        mass = share * (self.mass[i + 1] - self.mass[i])
        return self.mass[i] + mass, self.first[i] + mass * (start + x) / 2


def density_of(atoms: Atoms) -> Density:
    """Return the density of `atoms`."""
    mass, first, second = atoms.moments
    x = atoms.position - atoms.center
    points = np.empty(2 * x.size + 1)
    points[1::2] = x
    points[2:-1:2] = (x[1:] + x[:-1]) / 2
    points[[0, -1]] = x[[0, -1]]
    left, right = x - points[:-1:2], points[2::2] - x
    width = left + right
    share = np.divide(right, width, out=np.ones_like(width), where=width > 0)
    left_mass = atoms.mass * share
    running_mass, running_first = np.empty(points.size), np.empty(points.size)
    running_mass[::2], running_first[::2] = mass, first
    running_mass[1::2] = mass[:-1] + left_mass
    running_first[1::2] = first[:-1] + left_mass * (x - left / 2)
    return Density(points, running_mass, running_first, float(second[-1] - second[0]))


def descend(density: Density, levels: FloatArray, steps: int) -> FloatArray:
    """Return `levels` [k] moved to a minimum of the squared error under `density`.

    Let M_i and F_i be the mass and the first moment of the values nearest to level l_i. The error
    is a constant plus the sum of l_i (l_i M_i - 2 F_i), and its gradient is 2 (l_i M_i - F_i).
    Half its Hessian is tridiagonal: M_i on the diagonal, and for each pair of neighboring levels,
    f g / 4 subtracted from their two diagonal entries and from the entry between them, where f is
    the density at their threshold and g their distance. The method is Levenberg-Marquardt: while
    a step fails to lower the error, a multiple of M is added to the diagonal, which turns
    Newton's step into a shorter Lloyd step.

    Source: Lloyd, *Least squares quantization in PCM*, 1982; the Hessian as in Fleischer,
    *Sufficient conditions for achieving minimum distortion in a quantizer*, 1964.

    Args:
        density: density of the values.
        levels: [k], ascending, relative to the middle atom.
        steps: greatest number of steps.
    """
    mass, first = _bins(density, levels)
    error = _error(levels, mass, first)
    damping, raised = 0.0, False
    for _ in range(steps):
        moved = _moved(density, levels, mass, first, damping)
        moved_mass, moved_first = _bins(density, moved)
        moved_error = _error(moved, moved_mass, moved_first)
        if not moved_error < error:
            damping, raised = max(4 * damping, 0.25), True
            if damping > _MAX_DAMPING:
                break
            continue
        gain = error - moved_error
        levels, mass, first, error = moved, moved_mass, moved_first, moved_error
        if gain <= _RELATIVE_TOLERANCE * (density.scatter + error):
            break
        # Damping that was raised for this step is kept for the next one.
        if not raised:
            damping = damping / 4 if damping > 0.1 else 0.0
        raised = False
    return levels


def _bins(density: Density, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mass and the first moment of the values nearest to each of `levels`."""
    mass, first = density.below((levels[1:] + levels[:-1]) / 2)
    return (
        np.diff(np.concatenate((density.mass[:1], mass, density.mass[-1:]))),
        np.diff(np.concatenate((density.first[:1], first, density.first[-1:]))),
    )


def _error(levels: FloatArray, mass: FloatArray, first: FloatArray) -> float:
    """Return the squared error without its constant part."""
    return float((levels * (levels * mass - 2 * first)).sum())


def _moved(
    density: Density, levels: FloatArray, mass: FloatArray, first: FloatArray, damping: float
) -> FloatArray:
    gap = np.diff(levels)
    middle = (levels[1:] + levels[:-1]) / 2
    # The density at a threshold is averaged over half the distance between its levels.
    mass_below, _ = density.below(np.concatenate((middle - gap / 4, middle + gap / 4)))
    coupling = (mass_below[gap.size :] - mass_below[: gap.size]) / 2
    diagonal = mass * (1 + damping)
    diagonal[1:] -= coupling
    diagonal[:-1] -= coupling
    step = _solve_tridiagonal(diagonal, -coupling, first - levels * mass)
    # Levels stay in order: none moves halfway to a neighbor or beyond the values.
    step[1:] = np.maximum(step[1:], -0.45 * gap)
    step[:-1] = np.minimum(step[:-1], 0.45 * gap)
    return np.clip(levels + step, density.points[0], density.points[-1])


def _solve_tridiagonal(diagonal: FloatArray, off: FloatArray, right: FloatArray) -> FloatArray:
    """Solve a symmetric system; zero pivots become 1, since the caller checks the step."""
    pivots = diagonal.tolist()
    couplings = off.tolist()
    solution = right.tolist()
    for i, coupling in enumerate(couplings):
        factor = coupling / (pivots[i] or 1.0)
        pivots[i + 1] -= factor * coupling
        solution[i + 1] -= factor * solution[i]
    solution[-1] /= pivots[-1] or 1.0
    for i in range(len(couplings) - 1, -1, -1):
        solution[i] = (solution[i] - couplings[i] * solution[i + 1]) / (pivots[i] or 1.0)
    return np.array(solution)

"""The density of a sample, smooth enough for Newton steps towards the k-means optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from qqonnx.codebooks.codebook import FloatArray
    from qqonnx.codebooks.sample import Atoms


_SETTLED = 1e-6
"""The descent ends with the first step that lowers the error by less than this part of it."""


_STUCK = 100.0
"""The descent ends when steps a hundred times shorter than Lloyd's do not lower the error."""


@dataclass(frozen=True)
class Density:
    """Atoms spread out to halfway to their neighbors: a piecewise constant density.

    Each side of an atom is filled evenly, with masses that keep the atom's mean.
    Positions are relative to the middle atom, as in `Atoms.moments`.

    Attributes:
        points: float64 [2m + 1], ascending: the ends of the stretches, the atoms between them.
        mass: float64 [2m + 1], mass below each point, counted from the middle atom.
        first: float64 [2m + 1], first moment below each point, likewise.
        scatter: sum of squares of the atoms.
    """

    points: FloatArray
    mass: FloatArray
    first: FloatArray
    scatter: float

    def below(self, where: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the mass and the first moment below each point of `where`."""
        at = np.searchsorted(self.points[1:-1], where, side="right")
        start = self.points[at]
        width = self.points[at + 1] - start
        part = np.divide(where - start, width, out=np.ones_like(where), where=width > 0)
        mass = part * (self.mass[at + 1] - self.mass[at])
        return self.mass[at] + mass, self.first[at] + mass * (start + where) / 2


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

    With M_i and F_i the mass and first moment of the values nearest to level i, the error is
    a constant plus the sum of l_i (l_i M_i - 2 F_i), its gradient 2 (l_i M_i - F_i), and half
    its Hessian tridiagonal: where f is the density at the threshold between levels i and i + 1
    and g their distance, f g / 4 comes off the diagonal M_i and M_(i+1) and off the entry
    between. Levenberg-Marquardt: while a step fails to lower the error, the diagonal grows by a
    multiple of M, which turns Newton's step into a part of Lloyd's.

    Source: Lloyd, *Least squares quantization in PCM*, 1982; the Hessian as in Fleischer,
    *Sufficient conditions for achieving minimum distortion in a quantizer*, 1964.

    Args:
        density: of the values.
        levels: ascending, relative to the middle atom.
        steps: at most so many.
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
            if damping > _STUCK:
                break
            continue
        gain = error - moved_error
        levels, mass, first, error = moved, moved_mass, moved_first, moved_error
        if gain <= _SETTLED * (density.scatter + error):
            break
        # A damping that has just been found necessary is kept for another step.
        if not raised:
            damping = damping / 4 if damping > 0.1 else 0.0
        raised = False
    return levels


def _bins(density: Density, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mass and the first moment nearest to each of `levels`."""
    mass, first = density.below((levels[1:] + levels[:-1]) / 2)
    ends = density.mass[[0, -1]], density.first[[0, -1]]
    return (
        np.diff(np.concatenate((ends[0][:1], mass, ends[0][1:]))),
        np.diff(np.concatenate((ends[1][:1], first, ends[1][1:]))),
    )


def _error(levels: FloatArray, mass: FloatArray, first: FloatArray) -> float:
    """Return the squared error, less the constant part."""
    return float((levels * (levels * mass - 2 * first)).sum())


def _moved(
    density: Density, levels: FloatArray, mass: FloatArray, first: FloatArray, damping: float
) -> FloatArray:
    gap = np.diff(levels)
    middle = (levels[1:] + levels[:-1]) / 2
    # The density at a threshold, averaged over half the way to its levels.
    around, _ = density.below(np.concatenate((middle - gap / 4, middle + gap / 4)))
    coupling = (around[gap.size :] - around[: gap.size]) / 2
    diagonal = mass * (1 + damping)
    diagonal[1:] -= coupling
    diagonal[:-1] -= coupling
    step = _tridiagonal(diagonal, -coupling, first - levels * mass)
    # No level goes half the way to a neighbor, or beyond the values: they stay in order.
    step[1:] = np.maximum(step[1:], -0.45 * gap)
    step[:-1] = np.minimum(step[:-1], 0.45 * gap)
    return np.clip(levels + step, density.points[0], density.points[-1])


def _tridiagonal(diagonal: FloatArray, beside: FloatArray, right: FloatArray) -> FloatArray:
    """Solve a symmetric tridiagonal system; zero pivots are replaced (the step is checked)."""
    pivots = diagonal.tolist()
    off = beside.tolist()
    solution = right.tolist()
    for i, coupling in enumerate(off):
        factor = coupling / (pivots[i] or 1.0)
        pivots[i + 1] -= factor * coupling
        solution[i + 1] -= factor * solution[i]
    solution[-1] /= pivots[-1] or 1.0
    for i in range(len(off) - 1, -1, -1):
        solution[i] = (solution[i] - off[i] * solution[i + 1]) / (pivots[i] or 1.0)
    return np.array(solution)

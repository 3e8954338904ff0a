"""Exact one-dimensional k-means by dynamic programming."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.bins import explained_square

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.codebooks.bins import Cuts
    from qqonnx.codebooks.codebook import FloatArray
    from qqonnx.codebooks.sample import Atoms

_BRANCHING = 8


def best_cuts(atoms: Atoms, clusters: int) -> Cuts:
    """Return the cuts [k - 1] of the atoms into bins of least squared error.

    Let D_j(i) be the least error of the first i atoms in j bins. Then
    D_j(i) = min over t of D_{j-1}(t) + error(t, i). The minimizing t never falls as i grows, so
    array operations find each row of minima in O(m log m) instead of O(m^2). Time O(k m log m),
    memory O(k m).

    Source: Wu, *Optimal quantization by matrix searching*, J. Algorithms 1991; Wang and Song,
    *Ckmeans.1d.dp*, R Journal 2011.

    Args:
        atoms: more atoms than clusters.
        clusters: number of bins k >= 1.
    """
    mass, first, second = atoms.moments
    count = atoms.mass.size
    base = np.zeros(count + 1)
    base[1:] = second[1:] - second[0] - explained_square(first[1:] - first[0], mass[1:] - mass[0])
    choices = []
    for run in range(2, clusters + 1):
        last = count - (clusters - run)
        rows = np.arange(run, last + 1) if run < clusters else np.array([count])
        least, choice = _row_minima(base - second, mass, first, rows, run - 1)
        base = np.full(count + 1, np.inf)
        base[rows] = least + second[rows]
        choices.append((int(rows[0]), choice))
    cuts = np.empty(clusters - 1, np.intp)
    end = count
    for run in range(clusters - 2, -1, -1):
        offset, choice = choices[run]
        end = int(choice[end - offset])
        cuts[run] = end
    return cuts


def _row_minima(
    base: FloatArray,
    mass: FloatArray,
    first: FloatArray,
    rows: NDArray[np.intp],
    least_start: int,
) -> tuple[FloatArray, NDArray[np.intp]]:
    """Return for each row i the minimum over t, and the t that attains it.

    The function is base(t) - (first_i - first_t)^2 / (mass_i - mass_t), for t from `least_start`
    to i - 1. Every 8^l-th row comes first, with all t. The rows between follow, each with the t
    between the choices of its neighbors.
    """
    count = rows.size
    least = np.empty(count)
    choice = np.empty(count, np.intp)
    stride = 1
    while stride * _BRANCHING < count:
        stride *= _BRANCHING
    todo = np.arange(0, count, stride)
    low = np.full(todo.size, least_start)
    high = rows[todo] - 1
    while True:
        # All pairs (row, t) of this stride in one flat array.
        length = high - low + 1
        offset = np.cumsum(length) - length
        t = np.arange(int(length.sum())) + np.repeat(low - offset, length)
        i = rows[todo]
        moment = np.repeat(first[i], length) - first[t]
        error = base[t] - explained_square(moment, np.repeat(mass[i], length) - mass[t])
        least[todo] = np.minimum.reduceat(error, offset)
        hits = np.flatnonzero(error == np.repeat(least[todo], length))
        choice[todo] = t[hits[np.searchsorted(hits, offset)]]
        if stride == 1:
            return least, choice
        finer = stride // _BRANCHING
        todo = np.arange(0, count, finer)
        todo = todo[todo % stride != 0]
        below = todo // stride * stride
        above = below + stride
        low = choice[below]
        inside = above < count
        high = rows[todo] - 1
        # Rounding decides between equal minima; it must not leave a row without any t.
        high[inside] = np.maximum(low[inside], np.minimum(high[inside], choice[above[inside]]))
        stride = finer

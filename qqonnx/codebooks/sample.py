"""A sample: the values that a codebook is fitted to, reduced to atoms.

An *atom* is a point with mass. Small inputs and 16-bit floats have one atom per distinct value.
Large inputs have one atom per key (`keys.py`), positioned at the mean of its values. A method
then resolves the few atoms near its thresholds into distinct values (`Sample.resolve`). The
result is exact, but most values are never sorted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks.keys import (
    KEYS,
    SIGN,
    is_key,
    key_order,
    keys_of,
    rank_order,
    ranks_of,
    slices,
    values_of_ranks,
)
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.codebooks.codebook import FloatArray, Weights

SORTED_UP_TO = 1 << 15
"""Inputs of at most this many values are sorted; in larger ones, values are counted by key."""

_HEAVIEST_KEY = 0.01
"""Keys with a greater share of the mass are resolved from the start. Keys are too coarse if the
values lie in few of them, for example all near 1. For normal weights no key has half this share."""

_LEAST_IMPORTANCE = 2.0**-30
"""Importance below this, relative to the greatest, counts as zero: in running sums over all values
it would be lost in rounding."""


@dataclass(frozen=True)
class Atoms:
    """Points with mass, in ascending order, at the scale of the sample.

    Attributes:
        position: float64 [m], the mean of each atom's values.
        mass: float64 [m], positive: number of values, or sum of their importance.
        rank: uint16 [m], rank of the atom's key; used only where not `exact`.
        exact: bool [m], whether the atom's values are all equal.
    """

    position: FloatArray
    mass: FloatArray
    rank: NDArray[np.uint16]
    exact: NDArray[np.bool_]

    @cached_property
    def moments(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Running sums [m + 1] of mass, mass × x and mass × x^2, where x = position - `center`.

        They start at the middle atom and run outwards, so that outliers do not reduce the
        precision of differences between sums near the middle.
        """
        x = self.position - self.center
        middle = x.size // 2
        sums = []
        for term in (self.mass, self.mass * x, self.mass * x * x):
            running = np.zeros(x.size + 1)
            np.cumsum(term[middle:], out=running[middle + 1 :])
            running[:middle] = -np.cumsum(term[:middle][::-1])[::-1]
            sums.append(running)
        return sums[0], sums[1], sums[2]

    @property
    def center(self) -> float:
        """Position of the middle atom."""
        return float(self.position[self.position.size // 2])


@dataclass(frozen=True)
class Sample:
    """Finite values, their importance, and the power of two that brings them into [-1, 1].

    Methods work at that scale: squares can neither overflow nor vanish, and scaling the values
    by a power of two scales the codebook exactly.

    Attributes:
        values: [n], contiguous, native byte order, original scale.
        importance: float [n], original scale, or None (all equal).
        importance_exponent: importance × 2^-importance_exponent is at most 1.
        exponent: values × 2^-exponent is the scale of the sample.
        low: least value, at the scale of the sample.
        high: greatest value, at the scale of the sample.
        sorted_up_to: see `SORTED_UP_TO`.
    """

    values: Weights
    importance: NDArray[Any] | None
    importance_exponent: int
    exponent: int
    low: float
    high: float
    sorted_up_to: int = SORTED_UP_TO

    @cached_property
    def atoms(self) -> Atoms:
        """The values as atoms: one per distinct value, or one per key."""
        if self.values.size <= self.sorted_up_to:
            values, mass = _distinct(self.values, self._weight(slice(None)))
            no_rank = np.zeros(values.size, np.uint16)
            return Atoms(self._scaled(values), mass, no_rank, np.ones(values.size, np.bool_))
        mass, total = self._totals_by_key()
        if is_key(self.values.dtype):
            mass[0] += mass[SIGN]  # -0.0 is 0.0
            mass[SIGN] = 0.0
        mass = rank_order(mass)
        rank = np.flatnonzero(mass > 0)
        if is_key(self.values.dtype):
            position = self._scaled(values_of_ranks(self.values.dtype)[rank])
        else:
            position = rank_order(total)[rank] / mass[rank]
        exact = np.full(rank.size, is_key(self.values.dtype))
        atoms = Atoms(position, mass[rank], rank.astype(np.uint16), exact)
        heavy = (atoms.mass > _HEAVIEST_KEY * atoms.mass.sum()) & ~exact
        return self.resolve(atoms, heavy) if heavy.any() else atoms

    def resolve(self, atoms: Atoms, which: NDArray[np.bool_]) -> Atoms:
        """Return `atoms` with those selected by `which` [m] split into their distinct values."""
        ranks = np.zeros(KEYS, np.bool_)
        ranks[atoms.rank[which & ~atoms.exact]] = True
        # -0.0 and 0.0 are equal but have different keys: both are resolved, or none.
        ranks[SIGN - 1 : SIGN + 1] = ranks[SIGN - 1 : SIGN + 1].any()
        wanted = key_order(ranks)
        chunks = []
        for part in slices(self.values.size):
            selected = np.flatnonzero(np.take(wanted, self._keys(part), mode="clip"))
            chunks.append(selected + part.start)
        places = np.concatenate(chunks)
        position, mass = _distinct(self.values[places], self._weight(places))
        kept = ~ranks[atoms.rank]
        rank = np.concatenate((atoms.rank[kept], self._ranks(position)))
        order = np.argsort(rank, kind="stable")
        return Atoms(
            np.concatenate((atoms.position[kept], self._scaled(position)))[order],
            np.concatenate((atoms.mass[kept], mass))[order],
            rank[order],
            np.concatenate((atoms.exact[kept], np.ones(position.size, np.bool_)))[order],
        )

    def unresolved(self, atoms: Atoms, thresholds: FloatArray) -> NDArray[np.bool_]:
        """Return which of `atoms` [m] may hold values on both sides of one of `thresholds`."""
        divided = np.zeros(KEYS, np.bool_)
        divided[self._ranks(np.ldexp(thresholds, self.exponent))] = True
        return divided[atoms.rank] & ~atoms.exact

    def mean(self) -> float:
        """Return the mean of the values; importance is ignored."""
        total = 0.0
        for part in slices(self.values.size):
            total += float(self._scaled(self.values[part]).sum())
        return total / self.values.size

    def deviation(self) -> float:
        """Return the standard deviation of the values, unbiased; importance is ignored."""
        mean, square = self.mean(), 0.0
        for part in slices(self.values.size):
            x = self._scaled(self.values[part]) - mean
            square += float(np.square(x).sum())
        return math.sqrt(square / max(self.values.size - 1, 1))

    def _weight(self, places: slice | NDArray[np.intp]) -> FloatArray | None:
        if self.importance is None:
            return None
        importance = self.importance[places].astype(np.float64)
        weight = np.ldexp(importance, -self.importance_exponent)
        weight[weight < _LEAST_IMPORTANCE] = 0.0
        return weight

    def _scaled(self, values: Weights) -> FloatArray:
        return np.ldexp(values.astype(np.float64), -self.exponent)

    def _keys(self, part: slice) -> NDArray[np.uint16]:
        return keys_of(self._at_key_scale(self.values[part]))

    def _ranks(self, values: Weights) -> NDArray[np.uint16]:
        return ranks_of(self._at_key_scale(values)).astype(np.uint16)

    def _at_key_scale(self, values: Weights) -> Weights:
        # Only float64 values may be out of range for keys, which are parts of float32.
        if self.values.dtype == np.float64:
            return self._scaled(values)
        return values

    def _totals_by_key(self) -> tuple[FloatArray, FloatArray]:
        mass = np.zeros(KEYS)
        total = np.zeros(KEYS)
        for part in slices(self.values.size):
            keys = self._keys(part)
            weight = self._weight(part)
            mass += np.bincount(keys, weight, KEYS)
            if not is_key(self.values.dtype):
                chunk = self._at_key_scale(self.values[part])
                total += np.bincount(keys, chunk if weight is None else chunk * weight, KEYS)
        if self.values.dtype != np.float64:
            total = np.ldexp(total, -self.exponent)
        return mass, total


def sample_of(
    values: Weights,
    importance: NDArray[Any] | None = None,
    *,
    sorted_up_to: int = SORTED_UP_TO,
) -> Sample:
    """Return the sample of `values`.

    Args:
        values: [n], n >= 1, a floating dtype.
        importance: [n], non-negative and finite; all zero counts as all equal.
        sorted_up_to: see `SORTED_UP_TO`; tests set less to take the path of large inputs.

    Raises:
        QqonnxError: there are no values, a value is not finite, or the importance is invalid.
    """
    if values.size == 0:
        raise QqonnxError("a codebook needs at least one value, got none")
    flat = np.ascontiguousarray(values.reshape(-1), dtype=values.dtype.newbyteorder("="))
    low, high = extremes(flat)
    weight, most = None, 0.0
    if importance is not None:
        weight = np.ascontiguousarray(importance).reshape(-1)
        most = _most_important(weight, flat.size)
    _, exponent = math.frexp(max(-low, high))
    low, high = math.ldexp(low, -exponent), math.ldexp(high, -exponent)
    if most == 0:
        weight = None
    return Sample(flat, weight, math.frexp(most)[1], exponent, low, high, sorted_up_to)


def extremes(values: Weights) -> tuple[float, float]:
    """Return the least and the greatest of `values` [n], n >= 1.

    Raises:
        QqonnxError: a value is NaN or infinite.
    """
    low, high = math.inf, -math.inf
    for part in slices(values.size):
        chunk = values[part]
        if is_key(chunk.dtype):
            chunk = chunk.astype(np.float32)
        least, greatest = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(least) and math.isfinite(greatest)):
            raise QqonnxError(_not_finite(values))
        low, high = min(low, least), max(high, greatest)
    return low, high


def _not_finite(values: Weights) -> str:
    wide = values.astype(np.float64)
    nan = int(np.isnan(wide).sum())
    infinite = int(np.isinf(wide).sum())
    bad = f"{nan} NaN, {infinite} infinite"
    return f"{nan + infinite} of {values.size} values are not finite ({bad})"


def _most_important(importance: NDArray[Any], count: int) -> float:
    """Check `importance` and return the greatest."""
    if importance.size != count:
        raise QqonnxError(f"importance has {importance.size} entries for {count} values")
    least, most = float(importance.min()), float(importance.max())
    if not (least >= 0 and math.isfinite(most)):
        raise QqonnxError("importance must be finite and not negative")
    return most


def _distinct(values: Weights, importance: FloatArray | None) -> tuple[Weights, FloatArray]:
    """Return the distinct `values` [n] of positive importance, ascending, and their mass."""
    if is_key(values.dtype):
        values = values.astype(np.float32)
    if importance is None:
        ordered = np.sort(values)
    else:
        order = np.argsort(values, kind="stable")
        order = order[importance[order] > 0]
        ordered = values[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))[: ordered.size]
    if importance is None:
        mass = np.diff(first, append=ordered.size).astype(np.float64)
    else:
        mass = np.add.reduceat(importance[order], first) if first.size else np.empty(0)
    # Adding zero turns -0.0 into 0.0.
    return ordered[first] + ordered.dtype.type(0), mass

"""Piecewise linear quantization (PWLQ): fine uniform steps at the center, coarse in the tails.

Source: Fang et al., *Post-Training Piecewise Linear Quantization for Deep Neural Networks*,
ECCV 2020, and the code published with it. A break point p splits the range [-m, m], where
m = max|w|, into the center [-p, p] and two tails.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.breakpoint import (
    breakpoint_closed_form,
    breakpoint_gauss,
    breakpoint_laplace,
)
from qqonnx.codebooks.codebook import Codebook, FloatArray, nearest
from qqonnx.codebooks.method import Method
from qqonnx.codebooks.uniform import uniform_levels
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qqonnx.codebooks.sample import Atoms, Sample

_GRID = 128
_ZOOMS = 3
"""The search tries 127 break points, then zooms in three times, by 16, around the best one."""


def fit_search(sample: Sample, levels: int) -> Codebook:
    """Return the piecewise codebook with the break point of least squared error, by search."""
    atoms = sample.atoms
    largest = max(-sample.low, sample.high)
    ratios: FloatArray = np.arange(1, _GRID, dtype=np.float64) / _GRID
    step = 1 / _GRID
    for _ in range(_ZOOMS + 1):
        candidates = piecewise_levels(sample.low, sample.high, ratios * largest, levels)
        best = float(ratios[np.argmin(_squared_errors(atoms, candidates))])
        ratios = best + np.arange(-16.0, 17.0) * (step / 16)
        ratios = ratios[(ratios > 0) & (ratios < 1)]
        step /= 16
    return _fit_at(sample, levels, best * largest)


def fit_by_formula(
    formula: Callable[[float, float], float], sample: Sample, levels: int
) -> Codebook:
    """Return the piecewise codebook with the break point of a formula; see `breakpoint.py`."""
    return _fit_at(sample, levels, formula(max(-sample.low, sample.high), sample.deviation()))


def _fit_at(sample: Sample, levels: int, p: float) -> Codebook:
    return nearest(np.unique(piecewise_levels(sample.low, sample.high, np.array([p]), levels)[0]))


def piecewise_levels(low: float, high: float, p: FloatArray, levels: int) -> FloatArray:
    """Return ascending levels [c, k] for each break point p [c], 0 < p < max(-low, high).

    Half of the levels are spread over the center, both ends included, and a quarter over each
    tail, the outer end included. This keeps the published ratio of steps and uses every level.
    If the values exceed p on one side only, that tail gets both quarters. If all values lie
    beyond p on one side, all levels are spread uniformly. With fewer than four levels the tails
    have none and are clipped to the center.
    """
    if levels == 1:
        return np.tile(uniform_levels(low, high, 1), (p.size, 1))
    left, right = low < -p, high > p
    center_low, center_high = np.maximum(-p, low), np.minimum(p, high)
    tail = 2 * (levels // 4)
    in_left = np.where(left & right, tail // 2, np.where(left, tail, 0))[:, None]
    in_center = levels - tail
    j = np.arange(levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        left_part = low + j * (center_low - low)[:, None] / in_left
        right_step = (high - center_high)[:, None] / (tail - in_left)
    after_left = j - in_left
    center_part = center_low[:, None] + after_left * (
        (center_high - center_low)[:, None] / (in_center - 1)
    )
    after_center = after_left - (in_center - 1)
    with np.errstate(invalid="ignore"):
        right_part = center_high[:, None] + after_center * right_step
    result = np.where(
        after_left < 0, left_part, np.where(after_center <= 0, center_part, right_part)
    )
    result[in_left[:, 0] < tail, -1] = high
    outside = (low >= p) | (high <= -p)
    result[outside] = uniform_levels(low, high, levels)
    return result


def _squared_errors(atoms: Atoms, levels: FloatArray) -> FloatArray:
    """Return the sum of squared errors [c] of each row of `levels` [c, k], nearest assignment."""
    thresholds = (levels[:, :-1] + levels[:, 1:]) / 2
    cuts = np.searchsorted(atoms.position, thresholds, side="right")
    edges = np.pad(cuts, ((0, 0), (1, 1)), constant_values=(0, atoms.position.size))
    mass, first, second = (np.diff(running[edges]) for running in atoms.moments)
    x = levels - atoms.center
    errors: FloatArray = np.sum(second - 2 * x * first + x * x * mass, axis=1)
    return errors


def fit_paper(sample: Sample, levels: int) -> Codebook:
    """Return PWLQ as in the authors' code: 2^(b+1) - 1 levels for what they call b bits.

    The center -p < w < p is signed symmetric with b bits and step 2p/(2^b - 1). Its code
    -2^(b-1) cannot be reached, hence the - 1. Each tail is affine with b - 1 bits, and its first
    level is at p. The break point is the closed form for normal weights, as in the paper's
    tables. Values halfway between two levels go to the lower one; the authors round half to even.

    Args:
        sample: the values.
        levels: at least 7; the largest b with 2^(b+1) - 1 <= levels is used.

    Raises:
        QqonnxError: fewer than 7 levels: b = 1 leaves a tail zero bits.
    """
    bits = (levels + 1).bit_length() - 2
    if bits < 2:
        raise QqonnxError(f"method pwlq-paper needs at least 7 levels (2 bits), got {levels}")
    m = max(-sample.low, sample.high)
    p = breakpoint_closed_form(m, sample.deviation())
    reach = (1 << (bits - 1)) - 1
    center = np.arange(-float(reach), reach + 1) * (2 * p / ((1 << bits) - 1))
    tail = np.linspace(p, m, reach + 1)
    in_center, in_tail = nearest(center).thresholds, nearest(tail).thresholds
    below_p = math.nextafter(p, 0.0)
    return Codebook(
        np.concatenate((-tail[::-1], center, tail)),
        np.concatenate((-in_tail[::-1], [-p], in_center, [below_p], in_tail)),
    )


_fit_gauss = partial(fit_by_formula, breakpoint_gauss)
_fit_laplace = partial(fit_by_formula, breakpoint_laplace)
_piecewise = partial("piecewise: fine uniform center, coarse uniform tails; {}".format)

METHODS = (
    Method("pwlq", _piecewise("break point by search"), fit_search),
    Method("pwlq-gauss", _piecewise("break point of a normal distribution"), _fit_gauss),
    Method("pwlq-laplace", _piecewise("break point of a Laplace distribution"), _fit_laplace),
    Method(
        "pwlq-paper",
        "piecewise as published: b bits mean 2^(b+1) - 1 levels, stored in b + 1 bits",
        fit_paper,
        levels_at=lambda bits: (2 << bits) - 1,
        min_bits=2,
        max_bits=7,
    ),
)

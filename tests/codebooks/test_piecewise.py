"""Uniform and piecewise codebooks against their formulas and the published code."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.codebooks import assign, distortion, fit, sample_of
from qqonnx.codebooks.breakpoint import (
    breakpoint_closed_form,
    breakpoint_gauss,
    breakpoint_laplace,
)
from qqonnx.codebooks.codebook import nearest
from qqonnx.codebooks.piecewise import piecewise_levels
from qqonnx.errors import QqonnxError

# Range in deviations -> break point in deviations, from bisection of the paper's equation.
GAUSS = {3: 1.1583, 4: 1.3920, 6: 1.7547, 10: 2.2096}
LAPLACE = {3: 1.0678, 4: 1.2909, 6: 1.6601, 10: 2.2020}


def published(w: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    """Transcribe the authors' quantizer: decoded weights and break point."""
    m = np.abs(w).max()
    ratio = m / (np.std(w, ddof=1) + 1e-12)
    p = math.log(0.86143114 * ratio + 0.607901097496529) / ratio * m
    top = 2 ** (bits - 1)
    scale = 2 * p / (2**bits - 1)
    middle = np.clip(np.round(w / scale), -top, top - 1) * scale
    tail_scale = (m - p) / (2 ** (bits - 1) - 1)
    tail = np.sign(w) * (np.round((np.abs(w) - p) / tail_scale) * tail_scale + p)
    return np.where((-p < w) & (w < p), middle, tail), p


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("count", [50, 3_000, 100_000])
def test_pwlq_paper_is_the_published_code(bits: int, count: int) -> None:
    if count < 2 ** (bits + 1):
        pytest.skip("fewer values than levels are kept as they are")
    rng = np.random.default_rng(bits)
    for values in (rng.normal(size=count), rng.laplace(size=count), rng.uniform(-1, 3, count)):
        codebook = fit(values, "pwlq-paper", 2 ** (bits + 1) - 1)
        assert codebook.levels.size == 2 ** (bits + 1) - 1
        expected, p = published(values, bits)
        found = codebook.levels[assign(values, codebook)]
        assert np.isclose(found, expected, rtol=1e-9).all()
        # The break point itself belongs to the tails, whose first level it is.
        on = np.array([-1, 1]) * np.abs(codebook.levels[np.argmin(np.abs(codebook.levels - p))])
        np.testing.assert_allclose(codebook.levels[assign(on, codebook)], on)


def test_pwlq_paper_takes_the_most_bits_that_fit() -> None:
    values = np.random.default_rng(0).normal(size=5_000)
    for levels, used in ((7, 7), (14, 7), (15, 15), (16, 15), (255, 255), (256, 255)):
        assert fit(values, "pwlq-paper", levels).levels.size == used
    with pytest.raises(QqonnxError, match="at least 7 levels"):
        fit(values, "pwlq-paper", 6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_break_points(scale: float) -> None:
    for m, p in GAUSS.items():
        assert breakpoint_gauss(m * scale, scale) == pytest.approx(p * scale, abs=1e-4 * scale)
        closed = breakpoint_closed_form(m * scale, scale)
        assert closed == pytest.approx(p * scale, rel=0.01)
    for m, p in LAPLACE.items():
        assert breakpoint_laplace(m * scale, scale) == pytest.approx(p * scale, abs=1e-4 * scale)


@given(st.floats(0.5, 1e9))
@settings(deadline=None)
def test_break_points_stay_in_the_lower_half_of_the_range(m: float) -> None:
    for formula in (breakpoint_gauss, breakpoint_laplace):
        assert 0 < formula(m, 1.0) <= m / 2 * (1 + 1e-12)


@given(
    st.integers(1, 256),
    st.floats(-1, 1).flatmap(lambda low: st.tuples(st.just(low), st.floats(low, 1))),
    st.floats(0.01, 0.99),
)
@settings(deadline=None)
def test_piecewise_levels_cover_the_range_and_are_all_of_use(
    levels: int, span: tuple[float, float], ratio: float
) -> None:
    low, high = span
    if high - low < 1e-3:
        return
    p = ratio * max(-low, high)
    found = piecewise_levels(low, high, np.array([p]), levels)[0]
    assert found.size == levels
    assert (np.diff(found) > 0).all() or min(abs(p + low), abs(p - high), abs(high - low)) < 1e-9
    assert low - 1e-12 <= found[0]
    assert found[-1] <= high + 1e-12
    if levels >= 4:
        assert found[0] == low or levels < 8
        assert found[-1] == pytest.approx(high)


def test_piecewise_levels_have_the_published_split() -> None:
    found = piecewise_levels(-1.0, 1.0, np.array([0.3]), 16)[0]
    expected = [-1, -0.825, -0.65, -0.475, *np.linspace(-0.3, 0.3, 8), 0.475, 0.65, 0.825, 1]
    np.testing.assert_allclose(found, expected)
    one_sided = piecewise_levels(0.0, 1.0, np.array([0.3]), 16)[0]
    np.testing.assert_allclose(one_sided, [*np.linspace(0, 0.3, 8), *np.linspace(0.3, 1, 9)[1:]])
    far = piecewise_levels(0.5, 1.0, np.array([0.3]), 6)[0]
    np.testing.assert_allclose(far, np.linspace(0.5, 1, 6))


@pytest.mark.parametrize("levels", [2, 4, 6, 16, 256])
@pytest.mark.parametrize("count", [500, 60_000])
def test_the_search_finds_the_best_break_point(levels: int, count: int) -> None:
    rng = np.random.default_rng(levels)
    for values in (rng.normal(size=count), rng.standard_t(4, size=count) + 0.3):
        largest = np.abs(values).max()
        found = fit(values, "pwlq", levels)
        error = distortion(values, found.levels[assign(values, found)]).l2
        books = piecewise_levels(
            values.min(), values.max(), np.linspace(0.005, 0.995, 199) * largest, levels
        )
        errors = [
            distortion(values, book[assign(values, nearest(np.unique(book)))]).l2
            for book in books
            if (np.diff(book) > 0).all()
        ]
        assert error <= min(errors) * 1.01


@pytest.mark.parametrize("method", ["pwlq-gauss", "pwlq-laplace"])
def test_formulas_come_close_to_the_search_on_their_own_distribution(method: str) -> None:
    rng = np.random.default_rng(12)
    values = rng.normal(size=50_000) if method == "pwlq-gauss" else rng.laplace(size=50_000)
    errors = {}
    for name in (method, "pwlq", "uq"):
        codebook = fit(values, name, 64)
        errors[name] = distortion(values, codebook.levels[assign(values, codebook)]).l2
    assert errors["pwlq"] <= errors[method] * (1 + 1e-6)
    assert errors[method] <= 1.15 * errors["pwlq"]
    assert errors[method] < errors["uq"]


@given(
    hnp.arrays(np.float32, st.integers(2, 80), elements=st.floats(-1e6, 1e6, width=32)),
    st.integers(2, 40),
)
@settings(deadline=None)
def test_uniform_levels_are_evenly_spaced_and_nearest(values: np.ndarray, levels: int) -> None:
    codebook = fit(values, "uq", levels)
    if np.unique(values).size > levels:
        low, high = float(values.min()), float(values.max())
        assert codebook.levels[0] == low
        assert codebook.levels[-1] == high
        np.testing.assert_allclose(
            codebook.levels, np.linspace(low, high, levels), rtol=1e-12, atol=1e-12 * high
        )
    error = np.abs(codebook.levels[assign(values, codebook)] - values)
    best = np.abs(values[:, None].astype(np.float64) - codebook.levels).min(axis=1)
    np.testing.assert_allclose(error, best, rtol=1e-9, atol=1e-9)


def test_one_uniform_level_is_the_middle_of_the_range() -> None:
    assert fit(np.array([-1.0, 0.0, 5.0]), "uq", 1).levels.tolist() == [2.0]


def test_the_deviation_is_unbiased() -> None:
    for count in (2, 1_000, 200_000):
        values = np.random.default_rng(count).normal(size=count) + 100
        sample = sample_of(values)
        expected = math.ldexp(float(np.std(values, ddof=1)), -sample.exponent)
        assert sample.deviation() == pytest.approx(expected, rel=1e-9)

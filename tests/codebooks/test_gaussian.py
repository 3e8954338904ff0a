"""UNIQ and NormalFloat against their definitions, scipy-free."""

from __future__ import annotations

import math
from statistics import NormalDist

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.codebooks import assign, fit, index_entropy, sample_of
from qqonnx.codebooks.gaussian import normal_float

# The sixteen values of QLoRA's appendix E.
NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def test_sixteen_levels_are_nf4s() -> None:
    np.testing.assert_allclose(normal_float(16), NF4, rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", range(1, 257))
def test_normal_float_levels_reach_from_minus_one_to_one_with_zero(levels: int) -> None:
    found = normal_float(levels)
    assert found.size == levels
    assert (np.diff(found) > 0).all()
    assert np.abs(found).max() == (1 if levels > 1 else 0)
    if levels != 2:
        assert 0 in found
    if levels % 2 == 1:
        np.testing.assert_array_equal(found, -found[::-1])
    elif levels > 2:
        # One more above zero than below it: NF4's own asymmetry.
        assert (found > 0).sum() == (found < 0).sum() + 1


@pytest.mark.parametrize("sign", [-1, 1])
def test_normal_float_is_scaled_to_the_greatest_magnitude(sign: int) -> None:
    values = sign * np.random.default_rng(0).normal(size=1000)
    largest = np.abs(values).max()
    np.testing.assert_allclose(fit(values, "nf", 16).levels, np.array(NF4) * largest, atol=3e-6)


def erf_cdf(x: np.ndarray) -> np.ndarray:
    return np.array([(1 + math.erf(v / math.sqrt(2))) / 2 for v in x])


@pytest.mark.parametrize("levels", [2, 3, 4, 16, 61, 256])
def test_uniq_bins_have_equal_mass_under_the_fitted_normal(levels: int) -> None:
    values = np.random.default_rng(levels).normal(0.3, 0.02, size=100_000)
    codebook = fit(values, "uniq", levels)
    assert codebook.levels.size == levels
    mean, deviation = values.mean(), values.std(ddof=1)
    share = erf_cdf((codebook.thresholds - mean) / deviation)
    np.testing.assert_allclose(share, np.arange(1, levels) / levels, atol=1e-9)
    middle = erf_cdf((codebook.levels - mean) / deviation)
    np.testing.assert_allclose(middle, (np.arange(levels) + 0.5) / levels, atol=1e-9)


def test_uniq_is_close_to_qq_with_medians_on_normal_values_only() -> None:
    rng = np.random.default_rng(1)
    normal = rng.normal(size=200_000)
    skewed = rng.exponential(size=200_000)
    for values, alike in ((normal, True), (skewed, False)):
        uniq = np.bincount(assign(values, fit(values, "uniq", 16)), minlength=16)
        entropy = index_entropy(uniq)
        assert (entropy > 3.999) == alike
    np.testing.assert_allclose(
        fit(normal, "uniq", 16).levels, fit(normal, "qq-median", 16).levels, atol=0.02
    )


def test_uniq_drops_quantiles_that_no_value_reaches() -> None:
    values = np.append(np.zeros(999), 1.0) + np.arange(1000) * 1e-6
    codebook = fit(values, "uniq", 16)
    assert codebook.levels[0] >= values.min()
    assert codebook.levels[-1] <= values.max()
    assert codebook.levels.size < 16


@given(
    hnp.arrays(np.float64, st.integers(2, 400), elements=st.floats(-1e3, 1e3, width=32)),
)
@settings(deadline=None)
def test_the_sample_has_numpys_mean(values: np.ndarray) -> None:
    sample = sample_of(values)
    expected = math.ldexp(float(values.mean()), -sample.exponent)
    assert sample.mean() == pytest.approx(expected, abs=1e-12)
    assert NormalDist().inv_cdf(0.5) == 0

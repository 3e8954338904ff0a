"""Quantile bins: equal mass, levels at their means, nothing wasted on ties."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.codebooks import assign, fit, index_entropy


@pytest.mark.parametrize("levels", [1, 2, 3, 16, 255, 256])
@pytest.mark.parametrize("count", [777, 30_000, 150_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_of_continuous_values_hold_equal_counts(levels: int, count: int, dtype: type) -> None:
    values = np.unique(np.random.default_rng(7).standard_t(5, size=count).astype(dtype))
    np.random.default_rng(8).shuffle(values)
    codebook = fit(values, "qq", levels)
    counts = np.bincount(assign(values, codebook), minlength=levels)
    assert counts.size == levels
    assert np.abs(counts - values.size / levels).max() <= 1
    assert index_entropy(counts) == pytest.approx(np.log2(levels), abs=0.02)


few_values = hnp.arrays(np.float64, st.integers(1, 300), elements=st.integers(-20, 20))
repeated = few_values.flatmap(
    lambda base: st.integers(0, 2000).map(lambda zeros: np.append(base, np.zeros(zeros)))
)


@given(repeated, st.integers(1, 20))
@settings(deadline=None)
def test_ties_waste_no_level_and_are_never_split(values: np.ndarray, levels: int) -> None:
    codebook = fit(values, "qq", levels)
    assert codebook.levels.size == min(levels, np.unique(values).size)
    indices = assign(values, codebook)
    counts = np.bincount(indices, minlength=levels)
    assert counts[: codebook.levels.size].all()
    means = np.bincount(indices, values)[: codebook.levels.size] / counts[: codebook.levels.size]
    np.testing.assert_allclose(codebook.levels, means, atol=1e-12)


@pytest.mark.parametrize("count", [2_000, 200_000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_sparse_weights_keep_their_zeros_and_all_their_levels(count: int, share: float) -> None:
    rng = np.random.default_rng(9)
    values = rng.normal(size=count).astype(np.float32)
    values[: int(share * count)] = np.array([0.0, -0.0], np.float32)[rng.integers(0, 2)]
    codebook = fit(values, "qq", 16)
    indices = assign(values, codebook)
    counts = np.bincount(indices, minlength=16)
    assert codebook.levels.size == 16
    zero = int(assign(np.zeros(1), codebook)[0])
    assert codebook.levels[zero] == 0
    assert counts[zero] == np.count_nonzero(values == 0)
    others = np.delete(counts, zero)
    # Bins on either side are equal; the two sides hold a whole number of bins each.
    assert others[:zero].max() - others[:zero].min() <= 1
    assert others[zero:].max() - others[zero:].min() <= 1
    assert others.max() <= 1.5 * others.min() + 1


@pytest.mark.parametrize("count", [900, 90_000])
def test_several_heavy_values_have_a_bin_each(count: int) -> None:
    rng = np.random.default_rng(10)
    values = rng.uniform(-1, 1, count).astype(np.float32)
    heavy = np.array([-0.5, 0.0, 0.5], np.float32)
    values[: count * 4 // 5] = np.resize(heavy, count * 4 // 5)
    codebook = fit(values, "qq", 16)
    assert codebook.levels.size == 16
    assert np.isin(heavy, codebook.levels).all()


def test_importance_is_shared_equally() -> None:
    rng = np.random.default_rng(11)
    for count in (5_000, 100_000):
        values = rng.normal(size=count).astype(np.float32)
        importance = np.exp(values.astype(np.float64))
        codebook = fit(values, "qq", 8, importance=importance)
        mass = np.bincount(assign(values, codebook), importance)
        np.testing.assert_allclose(mass, importance.sum() / 8, rtol=0.02)

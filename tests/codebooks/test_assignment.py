"""Indices against a search in float64; error measures against their definitions."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.codebooks import Codebook, assign, distortion, index_entropy, nearest
from qqonnx.codebooks.codebook import between

DTYPES: list[Any] = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
any_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)

finite = st.floats(allow_nan=False, allow_infinity=False)
special = st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e-45, -1e-45, 1.0, 3.4e38, -1.7e308])


@any_dtype
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_index_is_the_number_of_thresholds_below(dtype: Any, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 255))
    drawn = hnp.arrays(np.float64, 64, elements=finite | special)
    with np.errstate(over="ignore"):
        values = data.draw(drawn).astype(dtype)
    values = values[np.isfinite(values.astype(np.float64))]
    wide = values.astype(np.float64)
    # Thresholds on the values, beside them and anywhere.
    pool = np.concatenate((wide, np.nextafter(wide, 0), data.draw(drawn)))
    thresholds = np.sort(np.resize(pool, count)) if pool.size else np.empty(0)
    codebook = Codebook(np.arange(thresholds.size + 1.0), thresholds)
    expected = (thresholds[None, :] < wide[:, None]).sum(axis=1)
    for repeats in (1, 1 + 20_000 // max(values.size, 1)):  # by search, by table
        indices = assign(np.tile(values, repeats), codebook)
        assert indices.dtype == np.uint8
        np.testing.assert_array_equal(indices, np.tile(expected, repeats))


@any_dtype
@pytest.mark.parametrize("levels", [1, 2, 16, 256])
def test_many_values_agree_with_a_search_in_float64(dtype: Any, levels: int) -> None:
    rng = np.random.default_rng(levels)
    values = (rng.standard_t(3, size=150_001) * 0.05).astype(dtype)
    codebook = nearest(np.sort(rng.standard_t(3, size=levels) * 0.05))
    expected = np.searchsorted(codebook.thresholds, values.astype(np.float64), side="left")
    np.testing.assert_array_equal(assign(values, codebook), expected)


def test_the_shape_of_the_values_is_kept() -> None:
    codebook = nearest(np.array([0.0, 1.0]))
    assert assign(np.zeros((2, 3, 4), np.float32), codebook).shape == (2, 3, 4)
    assert assign(np.zeros((0, 4), np.float16), codebook).shape == (0, 4)


@given(hnp.arrays(np.float64, 20, elements=finite | special, unique=True))
@settings(deadline=None)
def test_a_value_is_given_its_own_level_however_close_or_far_the_next(levels: np.ndarray) -> None:
    levels = np.unique(np.concatenate((levels, np.nextafter(levels, 0))))
    codebook = nearest(levels)
    np.testing.assert_array_equal(codebook.levels[assign(levels, codebook)], levels)


def test_a_threshold_lies_midway() -> None:
    below, above = np.array([1.0, -1.7e308, 0.0]), np.array([2.0, 1.7e308, 5e-324])
    np.testing.assert_array_equal(between(below, above), [1.5, 0.0, 0.0])


@given(
    hnp.arrays(np.float64, (2, 30), elements=st.floats(-100, 100).map(lambda v: round(v, 6))),
)
@settings(deadline=None)
def test_distortion_follows_its_definitions(pair: np.ndarray) -> None:
    values, other = pair
    found = distortion(values, other)
    assert found.l1 == pytest.approx(np.mean(np.abs(values - other)))
    assert found.l2 == pytest.approx(np.mean((values - other) ** 2))
    if found.l2 > 0 and values.any():
        ratio = np.sum(values**2) / np.sum((values - other) ** 2)
        assert found.sqnr == pytest.approx(10 * np.log10(ratio))


def test_distortion_without_error_and_without_signal() -> None:
    zeros = np.zeros(3, np.float16)
    assert distortion(zeros, zeros).sqnr == math.inf
    assert distortion(zeros, zeros + np.float16(1)).sqnr == -math.inf


def test_index_entropy() -> None:
    assert index_entropy(np.array([5, 5, 5, 5])) == 2
    assert index_entropy(np.array([7, 0])) == 0
    assert index_entropy(np.array([1, 1, 2])) == pytest.approx(1.5)

"""What every codebook method promises, whichever it is."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.codebooks import METHODS, Codebook, assign, distortion, fit, sample_of
from qqonnx.codebooks.keys import CHUNK
from qqonnx.errors import QqonnxError

DTYPES: list[Any] = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
DISTRIBUTIONS = ["normal", "laplace", "student", "one-sided", "sparse", "two modes", "lattice"]

any_method = pytest.mark.parametrize("method", METHODS)
any_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)

values_and_levels = st.tuples(
    hnp.arrays(
        np.float64,
        st.integers(1, 60),
        elements=st.floats(allow_nan=False, allow_infinity=False)
        | st.integers(-9, 9).map(float)
        | st.floats(-1, 1, width=32),
    ),
    st.integers(7, 40),
)


def weights(name: str, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = {
        "normal": lambda: rng.normal(size=count) * 0.02,
        "laplace": lambda: rng.laplace(size=count),
        "student": lambda: rng.standard_t(3, size=count),
        "one-sided": lambda: np.abs(rng.normal(size=count)) + 0.25,
        "sparse": lambda: rng.normal(size=count) * (rng.random(count) < 0.1),
        "two modes": lambda: np.where(rng.random(count) < 0.7, -1, 3) + rng.normal(size=count) / 9,
        "lattice": lambda: np.round(rng.normal(size=count) * 99) / 64,
    }
    return drawn[name]()


def decoded(values: np.ndarray, codebook: Codebook) -> np.ndarray:
    return codebook.levels[assign(values, codebook)]


def squared_error(values: np.ndarray, codebook: Codebook) -> float:
    return distortion(values, decoded(values, codebook)).l2


@any_method
@given(values_and_levels)
@settings(deadline=None)
def test_a_codebook_is_ascending_finite_and_within_the_levels_asked_for(
    method: str, case: tuple[np.ndarray, int]
) -> None:
    values, levels = case
    codebook = fit(values, method, levels)
    assert codebook.levels.dtype == codebook.thresholds.dtype == np.float64
    assert 1 <= codebook.levels.size <= levels
    assert codebook.thresholds.size == codebook.levels.size - 1
    assert np.isfinite(codebook.levels).all()
    assert np.isfinite(codebook.thresholds).all()
    assert (np.diff(codebook.levels) > 0).all()
    assert (np.diff(codebook.thresholds) >= 0).all()
    assert (codebook.levels[:-1] <= codebook.thresholds).all()
    assert (codebook.thresholds <= codebook.levels[1:]).all()


@any_method
@given(values_and_levels)
@settings(deadline=None)
def test_few_distinct_values_are_kept_exactly(method: str, case: tuple[np.ndarray, int]) -> None:
    values, _ = case
    distinct = np.unique(values)
    for levels in (distinct.size, 256):
        codebook = fit(values, method, levels)
        np.testing.assert_array_equal(codebook.levels, distinct)
        np.testing.assert_array_equal(decoded(values, codebook), values)


@any_method
@any_dtype
@pytest.mark.parametrize("count", [3, CHUNK + 77])
def test_few_distinct_values_are_kept_exactly_in_every_dtype(
    method: str, dtype: Any, count: int
) -> None:
    values = np.resize(np.array([0.0, -0.0, 1.5, -2.25, 2.0**-14], dtype), count)
    assert (decoded(values, fit(values, method, 4)) == values.astype(np.float64)).all()


@any_method
@pytest.mark.parametrize("value", [0.0, -0.0, 3.7, -5e-324, 1.7e308, -1e-38])
def test_a_constant_tensor_has_one_level(method: str, value: float) -> None:
    for count in (1, 1000, 100_000):
        codebook = fit(np.full(count, value), method, 16)
        np.testing.assert_array_equal(codebook.levels, [value])
        assert not np.signbit(codebook.levels[0]) or value < 0


@any_method
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("count", [500, 40_000])
def test_scaling_by_a_power_of_two_scales_the_codebook_exactly(
    method: str, name: str, count: int
) -> None:
    values = weights(name, count).astype(np.float32)
    codebook = fit(values, method, 15)
    for exponent in (-90, 3, 100):
        scaled = fit(np.ldexp(values, exponent), method, 15)
        np.testing.assert_array_equal(scaled.levels, np.ldexp(codebook.levels, exponent))
        np.testing.assert_array_equal(scaled.thresholds, np.ldexp(codebook.thresholds, exponent))


@any_method
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("count", [500, 100_000])
def test_order_does_not_matter(method: str, name: str, count: int) -> None:
    values = weights(name, count).astype(np.float32)
    shuffled = np.random.default_rng(1).permutation(values)
    # Formulas use the deviation, which is summed in the order given.
    by_formula = ("pwlq-gauss", "pwlq-laplace", "pwlq-paper", "uniq")
    close = 1e-12 if method in by_formula else 0
    np.testing.assert_allclose(
        fit(shuffled, method, 15).levels, fit(values, method, 15).levels, rtol=close, atol=0
    )


@any_method
@any_dtype
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_counting_by_key_agrees_with_sorting(method: str, dtype: Any, name: str) -> None:
    values = weights(name, 20_000).astype(dtype)
    by_key = METHODS[method].fit(sample_of(values, sorted_up_to=0), 15)
    by_sorting = METHODS[method].fit(sample_of(values, sorted_up_to=values.size), 15)
    # These search; what they find may differ, but hardly in what it costs.
    apart = {"kmeans": 1e-3, "pwlq": 1e-3, "qq-tails": 0.1, "qq-alpha": 0.03, "qq-greedy": 0.03}
    if method in apart:
        scale = np.ldexp(1.0, -sample_of(values).exponent)
        costs = [squared_error(values * scale, book) for book in (by_key, by_sorting)]
        assert costs[0] == pytest.approx(costs[1], rel=apart[method])
    else:
        largest = np.abs(by_sorting.levels).max()
        np.testing.assert_allclose(by_key.levels, by_sorting.levels, rtol=0, atol=1e-9 * largest)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_kmeans_has_the_least_squared_error(name: str, bits: int) -> None:
    for count in (700, 50_000):
        values = weights(name, count).astype(np.float32)
        levels = 2**bits
        best = squared_error(values, fit(values, "kmeans", levels))
        for method in METHODS:
            if method != "pwlq-paper" or levels >= 7:
                assert best <= squared_error(values, fit(values, method, levels)) * (1 + 1e-9)


@pytest.mark.parametrize("method", ["uq", "pwlq", "kmeans"])
@pytest.mark.parametrize("name", ["normal", "laplace", "student", "one-sided", "two modes"])
def test_squared_error_falls_with_bits(method: str, name: str) -> None:
    values = weights(name, 50_000).astype(np.float32)
    errors = [squared_error(values, fit(values, method, 2**bits)) for bits in range(1, 9)]
    assert errors == sorted(errors, reverse=True)


@any_method
@any_dtype
def test_fitting_twice_gives_the_same_bytes(method: str, dtype: Any) -> None:
    values = weights("student", 100_000).astype(dtype)
    first, second = (fit(values, method, 64) for _ in range(2))
    assert first.levels.tobytes() == second.levels.tobytes()
    assert first.thresholds.tobytes() == second.thresholds.tobytes()


@any_method
@pytest.mark.parametrize("count", [40, 50_000])
def test_huge_and_tiny_values_together(method: str, count: int) -> None:
    rng = np.random.default_rng(2)
    exponents = rng.integers(-1070, 1023, count)
    values = np.ldexp(rng.uniform(-1, 1, count), exponents)
    values[:2] = np.finfo(np.float64).max, -np.finfo(np.float64).max
    codebook = fit(values, method, 15)
    assert np.isfinite(codebook.levels).all()
    assert np.abs(decoded(values, codebook)[:2] / values[:2] - 1).max() <= 1
    single = np.concatenate((rng.normal(size=count) * 1e-38, rng.uniform(-1, 1, count) * 3e38))
    assert np.isfinite(fit(single.astype(np.float32), method, 15).levels).all()


@any_method
@pytest.mark.parametrize("count", [300, 50_000])
def test_denormals_are_values_like_others(method: str, count: int) -> None:
    values = np.random.default_rng(3).integers(-4000, 4000, count)
    codebook = fit(values.astype(np.float32), method, 16)
    denormal = fit((values * 2.0**-149).astype(np.float32), method, 16)
    np.testing.assert_allclose(denormal.levels * 2.0**149, codebook.levels, rtol=0, atol=16)


@any_method
def test_memory_layout_and_byte_order_do_not_matter(method: str) -> None:
    values = weights("normal", 50_000).astype(np.float32)
    codebook = fit(values, method, 16)
    for other in (np.repeat(values, 2)[::2], values.astype(">f4"), values.astype("<f4")):
        again = fit(other, method, 16)
        np.testing.assert_array_equal(again.levels, codebook.levels)
        np.testing.assert_array_equal(assign(other, codebook), assign(values, codebook))


@any_method
@pytest.mark.parametrize("count", [5, 100_000])
@any_dtype
def test_values_that_are_not_finite_are_refused(method: str, count: int, dtype: Any) -> None:
    for bad, said in ((np.nan, "1 NaN, 0 infinite"), (-np.inf, "0 NaN, 1 infinite")):
        values = np.ones(count, dtype)
        values[count // 2] = bad
        with pytest.raises(QqonnxError, match=rf"1 of {count} values are not finite \({said}\)"):
            fit(values, method, 16)


def test_bad_arguments_are_refused_by_name() -> None:
    values = np.arange(300.0)
    with pytest.raises(QqonnxError, match=r"unknown method 'median'; known: uq, pwlq, .*kmeans"):
        fit(values, "median", 4)
    for levels in (0, -1, 257):
        with pytest.raises(QqonnxError, match=f"1 to 256 levels, not {levels}"):
            fit(values, "uq", levels)
    with pytest.raises(QqonnxError, match="at least one value"):
        fit(np.empty(0), "uq", 4)
    with pytest.raises(QqonnxError, match="2 entries for 300 values"):
        fit(values, "kmeans", 4, importance=np.ones(2))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(QqonnxError, match="finite and not negative"):
            fit(values, "kmeans", 4, importance=np.where(values == 7, bad, 1))


def test_bit_widths_of_the_methods() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert "\n" not in method.description
        assert method.levels_for(4) == (31 if name == "pwlq-paper" else 16)
    assert METHODS["pwlq-paper"].levels_for(7) == 255
    for bits in (1, 8):
        with pytest.raises(QqonnxError, match=f"pwlq-paper takes 2 to 7 bits, not {bits}"):
            METHODS["pwlq-paper"].levels_for(bits)
    with pytest.raises(QqonnxError, match="uq takes 1 to 8 bits, not 9"):
        METHODS["uq"].levels_for(9)


@pytest.mark.parametrize("method", ["qq", "kmeans"])
@pytest.mark.parametrize("count", [400, 60_000])
def test_importance_counts_like_repetition(method: str, count: int) -> None:
    values = weights("laplace", count).astype(np.float32)
    times = np.random.default_rng(4).integers(0, 4, count)
    weighted = fit(values, method, 16, importance=times * 0.375)
    repeated = fit(np.repeat(values, times), method, 16)
    np.testing.assert_allclose(weighted.levels, repeated.levels, rtol=0, atol=1e-6)


@any_method
@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_importance_gives_a_codebook(method: str, data: st.DataObject) -> None:
    values = data.draw(hnp.arrays(np.float32, 50, elements=st.floats(-9, 9, width=32)))
    importance = data.draw(
        hnp.arrays(np.float64, 50, elements=st.sampled_from([0.0, 1.0, 1e-300, 1e300]))
    )
    codebook = fit(values, method, 9, importance=importance)
    assert np.isfinite(codebook.levels).all()
    assert 1 <= codebook.levels.size <= 9
    if not importance.any():
        np.testing.assert_array_equal(codebook.levels, fit(values, method, 9).levels)

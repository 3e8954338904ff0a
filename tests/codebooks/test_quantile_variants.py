"""Variants of quantile quantization, compared with brute force and with QQ itself."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.codebooks import METHODS, Codebook, assign, distortion, fit, sample_of
from qqonnx.codebooks.bins import fit_bin_means
from qqonnx.codebooks.quantile_variants import alpha_cuts, fit_at_alpha

DRAWS = ["normal", "laplace", "student", "one-sided", "sparse", "two modes"]
COUNTS = [300, 60_000]


def draw(name: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(21)
    values = {
        "normal": lambda: rng.normal(size=count) * 0.03,
        "laplace": lambda: rng.laplace(size=count),
        "student": lambda: rng.standard_t(3, size=count),
        "one-sided": lambda: rng.exponential(size=count) + 0.1,
        "sparse": lambda: rng.normal(size=count) * (rng.random(count) < 0.2),
        "two modes": lambda: np.where(rng.random(count) < 0.7, -1, 3) + rng.normal(size=count) / 9,
    }[name]()
    return values.astype(np.float32)


def error(values: np.ndarray, book: Codebook) -> tuple[float, float]:
    """Return mean squared and mean absolute error."""
    result = distortion(values, book.levels[assign(values, book)])
    return result.l2, result.l1


def bins(values: np.ndarray, book: Codebook) -> list[np.ndarray]:
    indices = assign(values, book)
    return [values[indices == index].astype(np.float64) for index in range(book.levels.size)]


@pytest.mark.parametrize("levels", [2, 5, 16, 256])
@pytest.mark.parametrize("count", [1000, 90_000])
@pytest.mark.parametrize("name", DRAWS)
def test_levels_are_mean_median_and_middle_of_the_same_bins(
    name: str, count: int, levels: int
) -> None:
    values = draw(name, count)
    quantile = fit(values, "qq", levels)
    rules = {
        "qq": np.mean,
        "qq-median": np.median,
        "qq-midpoint": lambda part: (part.min() + part.max()) / 2,
    }
    for method, rule in rules.items():
        book = fit(values, method, levels)
        np.testing.assert_array_equal(book.thresholds, quantile.thresholds)
        expected = [rule(part) for part in bins(values, book)]
        np.testing.assert_allclose(book.levels, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("levels", [4, 16, 100])
def test_each_choice_of_level_is_best_for_its_own_error(name: str, count: int, levels: int) -> None:
    values = draw(name, count)
    books = {m: fit(values, m, levels) for m in ("qq", "qq-median", "qq-midpoint", "qq-nearest")}
    squared = {method: error(values, book)[0] for method, book in books.items()}
    absolute = {method: error(values, book)[1] for method, book in books.items()}
    assert squared["qq"] <= min(squared["qq-median"], squared["qq-midpoint"]) * (1 + 1e-9)
    assert absolute["qq-median"] <= min(absolute["qq"], absolute["qq-midpoint"]) * (1 + 1e-9)
    assert squared["qq-nearest"] <= squared["qq"] * (1 + 1e-9)
    np.testing.assert_array_equal(books["qq-nearest"].levels, books["qq"].levels)


@given(st.lists(st.integers(-30, 30), min_size=1, max_size=60), st.integers(1, 12))
@settings(deadline=None)
def test_medians_of_ties_are_numpys(items: list[int], levels: int) -> None:
    values = np.array(items, np.float64)
    book = fit(values, "qq-median", levels)
    expected = [np.median(part) for part in bins(values, book)]
    np.testing.assert_array_equal(book.levels, expected)


@pytest.mark.parametrize("method", ["qq-tails", "qq-alpha", "qq-greedy"])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("levels", [2, 4, 16, 200])
def test_error_lies_between_qq_and_kmeans(method: str, name: str, count: int, levels: int) -> None:
    values = draw(name, count)
    variant, plain, best = (
        error(values, fit(values, m, levels))[0] for m in (method, "qq", "kmeans")
    )
    assert best <= variant * (1 + 1e-9)
    # Exponents and cuts are chosen on atoms, a hundredth apart; on few values they are exact.
    assert variant <= plain * (1 + (1e-9 if count < 1000 else 0.01))


@pytest.mark.parametrize("method", ["qq-tails", "qq-alpha", "qq-greedy"])
@pytest.mark.parametrize("name", DRAWS)
def test_levels_are_the_means_of_the_bins(method: str, name: str) -> None:
    for count in COUNTS:
        values = draw(name, count)
        book = fit(values, method, 16)
        expected = [part.mean() for part in bins(values, book)]
        np.testing.assert_allclose(book.levels, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", COUNTS)
def test_alpha_zero_is_bins_of_equal_width_and_one_of_equal_mass(count: int) -> None:
    values = np.random.default_rng(2).uniform(-1, 1, count) ** 3
    sample = sample_of(values)
    scale = 2.0**sample.exponent
    uniform = fit_at_alpha(sample, 10, 0.0).thresholds * scale
    edges = np.linspace(values.min(), values.max(), 11)[1:-1]
    np.testing.assert_allclose(uniform, edges, atol=0.03)
    counts = [part.size for part in bins(values, fit(values, "qq", 10))]
    mass = np.diff(
        np.searchsorted(np.sort(values), fit_at_alpha(sample, 10, 1.0).thresholds * scale)
    )
    np.testing.assert_allclose(mass, counts[1:-1], atol=0.002 * count + 1)


def test_a_third_is_about_the_best_exponent_on_smooth_values() -> None:
    values = np.random.default_rng(3).normal(size=20_000)
    sample = sample_of(values)
    errors = {}
    for alpha in np.arange(0, 1.01, 1 / 12):
        book = fit_at_alpha(sample, 64, float(alpha))
        at_scale = Codebook(
            book.levels * 2.0**sample.exponent, book.thresholds * 2.0**sample.exponent
        )
        errors[round(float(alpha), 3)] = error(values, at_scale)[0]
    best = min(errors, key=errors.__getitem__)
    assert 0.25 <= best <= 0.5
    chosen = error(values, fit(values, "qq-alpha", 64))[0]
    assert chosen <= min(errors.values()) * (1 + 1e-9)


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=11, unique=True),
    st.integers(2, 4),
)
@settings(deadline=None, max_examples=60)
def test_greedy_is_never_worse_than_qq_and_never_better_than_the_best_bins(
    items: list[float], levels: int
) -> None:
    values = np.sort(np.array(items))
    if values.size <= levels:
        return

    def cost(cuts: tuple[int, ...]) -> float:
        parts = np.split(values, list(cuts))
        return float(sum(((part - part.mean()) ** 2).sum() for part in parts)) / values.size

    least = min(cost(cuts) for cuts in combinations(range(1, values.size), levels - 1))
    greedy = error(values, fit(values, "qq-greedy", levels))[0]
    assert least <= greedy * (1 + 1e-9) + 1e-15
    assert greedy <= error(values, fit(values, "qq", levels))[0] * (1 + 1e-9) + 1e-15


def test_greedy_refinement_ends_where_no_exchange_of_cuts_helps() -> None:
    values = np.sort(np.random.default_rng(5).standard_t(3, 80))
    book = fit(values, "qq-greedy", 8)
    cuts = np.searchsorted(values, book.thresholds, side="right").tolist()

    def cost(cuts: list[int]) -> float:
        parts = np.split(values, cuts)
        return float(sum(((part - part.mean()) ** 2).sum() for part in parts))

    now = cost(cuts)
    edges = [0, *cuts, values.size]
    for merged in range(len(cuts)):
        rest = cuts[:merged] + cuts[merged + 1 :]
        for a, b in pairwise(edges):
            part = values[a:b]
            middle = a + int(np.searchsorted(part, part.mean(), side="right"))
            # Neighbors of the merged cut are touched twice: not an exchange.
            touched = a in (cuts[merged],) or b in (cuts[merged],)
            if a < middle < b and not touched:
                assert cost(sorted([*rest, middle])) >= now * (1 - 1e-9)


@pytest.mark.parametrize("count", [2_000, 100_000])
def test_tails_get_levels_of_their_own(count: int) -> None:
    values = np.random.default_rng(6).standard_t(3, count)
    plain, variant = fit(values, "qq", 32), fit(values, "qq-tails", 32)
    assert variant.levels[-1] > plain.levels[-1]
    assert variant.levels[0] < plain.levels[0]
    counts = np.array([part.size for part in bins(values, variant)])
    middle = counts[4:-4]
    # Equal mass between the tails; of many values, cuts fall between keys.
    assert middle.max() - middle.min() <= (2 if count < 10_000 else 0.05 * middle.mean())
    assert counts[:3].max() < middle.min()
    assert counts[-3:].max() < middle.min()


def test_alpha_cuts_waste_no_level_on_ties() -> None:
    values = np.concatenate((np.zeros(900), np.random.default_rng(7).normal(size=100)))
    atoms = sample_of(values).atoms
    for alpha in (0.0, 0.4, 1.0):
        cuts = alpha_cuts(atoms, 16, alpha)
        assert cuts.size == 15
        assert (np.diff(cuts) > 0).all()


@given(
    st.lists(st.integers(-8, 8), min_size=2, max_size=40),
    st.lists(st.integers(-20, 20), min_size=1, max_size=9, unique=True),
)
@settings(deadline=None)
def test_thresholds_that_leave_a_bin_empty_are_dropped(
    items: list[int], doubled: list[int]
) -> None:
    values = np.array(items, np.float64)
    sample = sample_of(values)
    thresholds = np.sort(np.array(doubled, np.float64)) / 2
    book = fit_bin_means(sample, np.ldexp(thresholds, -sample.exponent))
    indices = np.searchsorted(thresholds, values, side="left")
    expected = [values[indices == index].mean() for index in np.unique(indices)]
    np.testing.assert_allclose(np.ldexp(book.levels, sample.exponent), expected, atol=1e-12)


def test_the_methods_are_in_the_registry() -> None:
    assert {"uniq", "nf", "qq-tails", "qq-alpha", "qq-greedy", "qq-median"} < set(METHODS)

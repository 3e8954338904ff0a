"""K-means against exact dynamic programming, published cases and its own definition."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qqonnx.codebooks import METHODS, assign, distortion, fit, nearest, sample_of
from qqonnx.codebooks.density import density_of, descend

LLOYD_MAX = {2: 0.3634, 4: 0.1175, 8: 0.03454, 16: 0.009497}
"""Mean squared error of the optimal quantizer for N(0, 1), by levels (Max, 1960)."""


def least_error(values: np.ndarray, importance: np.ndarray, clusters: int) -> float:
    """Return the least weighted sum of squared errors, by trying every cut: O(k n^3)."""
    order = np.argsort(values)
    x, w = values[order], importance[order]
    count = x.size

    def error(i: int, j: int) -> float:
        if w[i:j].sum() == 0:
            return 0.0
        return float(np.sum(w[i:j] * (x[i:j] - np.average(x[i:j], weights=w[i:j])) ** 2))

    errors = [[error(i, j) if i < j else 0.0 for j in range(count + 1)] for i in range(count)]
    best = [0.0] + [np.inf] * count
    for _ in range(clusters):
        best = [0.0] + [min(best[i] + errors[i][j] for i in range(j)) for j in range(1, count + 1)]
    return best[count]


@given(
    hnp.arrays(np.float64, st.integers(1, 24), elements=st.floats(-50, 50, width=32)),
    st.integers(1, 8),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_small_inputs_have_the_least_possible_error(
    values: np.ndarray, levels: int, data: st.DataObject
) -> None:
    importance = data.draw(
        st.just(np.ones(values.size))
        | hnp.arrays(np.float64, values.size, elements=st.sampled_from([0, 0.5, 1, 7.25]))
    )
    assume(importance.any())
    codebook = fit(values, "kmeans", levels, importance=importance)
    residue = codebook.levels[assign(values, codebook)] - values
    error = float(np.sum(importance * residue**2))
    least = least_error(values, importance, levels)
    assert error == pytest.approx(least, rel=1e-9, abs=1e-9 * float(importance @ values**2))


def test_cases_of_kmeans1d() -> None:
    x = np.array([4.0, 4.1, 4.2, -50, 200.2, 200.4, 200.9, 80, 100, 102])
    np.testing.assert_allclose(fit(x, "kmeans", 4).levels, [-50, 4.1, 94.0, 200.5])
    np.testing.assert_allclose(fit(x, "kmeans", 1).levels, [x.mean()])


@pytest.mark.parametrize("levels", LLOYD_MAX)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_normal_values_reach_the_lloyd_max_error(levels: int, dtype: type) -> None:
    values = np.random.default_rng(5).normal(size=1_000_000).astype(dtype)
    codebook = fit(values, "kmeans", levels)
    error = distortion(values, codebook.levels[assign(values, codebook)]).l2
    # Four deviations of the sampling error.
    assert error == pytest.approx(LLOYD_MAX[levels], rel=8e-3)


@pytest.mark.parametrize("levels", [2, 16, 64, 256])
@pytest.mark.parametrize("count", [1_000, 10_000, 200_000])
def test_levels_are_the_means_of_the_values_nearest_to_them(levels: int, count: int) -> None:
    values = np.random.default_rng(levels).standard_t(4, size=count).astype(np.float32)
    codebook = fit(values, "kmeans", levels)
    assert codebook.levels.size == levels
    np.testing.assert_array_equal(codebook.thresholds, nearest(codebook.levels).thresholds)
    indices = assign(values, codebook)
    counts = np.bincount(indices, minlength=levels)
    assert counts.all()
    means = np.bincount(indices, values, levels) / counts
    gaps = np.diff(codebook.levels)
    room = np.minimum(np.append(gaps, gaps[-1]), np.append(gaps[0], gaps))
    # The steps end before the last bit is settled; nothing is gained by it.
    assert np.abs((means - codebook.levels) / room).max() < 0.1
    polished = nearest(means)
    error = distortion(values, codebook.levels[indices]).l2
    better = distortion(values, polished.levels[assign(values, polished)]).l2
    assert error <= better * 1.002


@pytest.mark.parametrize("levels", [3, 16, 64])
def test_the_approximate_path_comes_close_to_the_exact_one(levels: int) -> None:
    rng = np.random.default_rng(6)
    modes = np.concatenate((rng.normal(size=600), rng.normal(size=300) / 20 + 4, [40.0, -70.0]))
    for values in (rng.normal(size=900), rng.standard_t(3, size=900), modes):
        exact = METHODS["kmeans"].fit(sample_of(values), levels)
        # Every value 400 times, a little apart: too many for the exact path.
        spread = rng.uniform(1 - 1e-4, 1 + 1e-4, (400, values.size))
        many = (values * spread).astype(np.float32).reshape(-1)
        scale = np.ldexp(1.0, -sample_of(values).exponent)
        assert sample_of(many).exponent == sample_of(values).exponent
        close = METHODS["kmeans"].fit(sample_of(many), levels)
        errors = [
            distortion(values * scale, book.levels[assign(values * scale, book)]).l2
            for book in (exact, close)
        ]
        assert errors[0] <= errors[1] * (1 + 1e-9)
        assert errors[1] <= errors[0] * 1.03


@given(
    hnp.arrays(np.float64, st.integers(6, 200), elements=st.floats(-1, 1), unique=True),
    st.integers(2, 20),
)
@settings(deadline=None)
def test_the_descent_never_raises_the_error(values: np.ndarray, count: int) -> None:
    atoms = sample_of(values).atoms
    density = density_of(atoms)
    start = np.linspace(density.points[0], density.points[-1], count)

    def error(levels: np.ndarray) -> float:
        fine = np.linspace(density.points[0], density.points[-1], 2_001)
        mass = np.diff(density.below(fine)[0])
        middle = (fine[1:] + fine[:-1]) / 2
        return float(mass @ np.min((middle[:, None] - levels) ** 2, axis=1))

    moved = descend(density, start, 60)
    assert (np.diff(moved) > 0).all()
    assert error(moved) <= error(start) * (1 + 1e-3) + 1e-6 * values.size
    # The density keeps the mass and the mean of the atoms.
    mass, first = density.below(density.points[[0, -1]])
    assert mass[1] - density.mass[0] == pytest.approx(values.size)
    assert first[1] - density.first[0] == pytest.approx(
        float(np.sum(atoms.position - atoms.center)), abs=1e-9 * values.size
    )
    assert np.diff(mass)[0] <= values.size + 1e-9


@given(st.integers(0, 2**32 - 1), st.integers(1, 16), st.integers(3, 200))
def test_importance_of_any_range(seed, levels, count):
    random = np.random.default_rng(seed)
    values = random.standard_normal(count).astype(np.float32)
    importance = 10.0 ** random.uniform(-40, 0, count)
    with np.errstate(all="raise", under="ignore"):
        codebook = fit(values, "kmeans", levels, importance=importance)
    assert np.isfinite(codebook.levels).all()
    felt = importance > 1e-6 * importance.max()
    chosen = assign(values, codebook)
    error = np.sum(importance * (values - codebook.levels[chosen]) ** 2)
    best = least_error(values[felt].astype(np.float64), importance[felt], levels)
    assert error <= best * (1 + 1e-6) + 1e-5 * importance.max() * np.ptp(values) ** 2

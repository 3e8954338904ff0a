"""Levels on an integer grid, and scales in 16 bits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qqonnx.codebooks import as_scales, on_grid, scale_groups

SIZES = st.integers(1, 40)
LEVELS = SIZES.flatmap(
    lambda n: arrays(np.float64, n, elements=st.floats(-1e6, 1e6, allow_subnormal=False))
)


@given(LEVELS, st.sampled_from([63, 127]))
def test_levels_are_distinct_integers_within_half_a_step(levels: np.ndarray, limit: int) -> None:
    integers, step = on_grid(np.unique(levels), limit)
    assert np.array_equal(integers, np.rint(integers))
    assert (np.diff(integers) > 0).all()
    assert np.abs(integers).max() <= limit
    distance = np.abs(levels[:, None] - step * integers).min(axis=1)
    assert distance.max() <= 0.5001 * step


def test_a_level_costs_at_most_what_the_whole_grid_would() -> None:
    levels = np.sort(np.random.default_rng(0).standard_normal(16))
    integers, step = on_grid(levels, 63)
    whole = np.abs(levels).max() / 63
    plain = np.rint(levels / whole) * whole
    nearest = np.abs(levels[:, None] - step * integers).min(axis=1)
    assert np.square(nearest).sum() <= np.square(levels - plain).sum()


@given(
    st.lists(
        st.tuples(
            st.integers(1, 30).flatmap(
                lambda n: arrays(np.float32, n, elements=st.floats(2**-10, 2**10, width=32))
            ),
            st.integers(-60, 60),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_scales_of_any_size_take_16_bits(weights: list[tuple[np.ndarray, int]]) -> None:
    scales = [values * np.float32(2.0**exponent) for values, exponent in weights]
    rounded = [as_scales(values) for values in scales]
    for before, after in zip(scales, rounded, strict=True):
        large = before > before.max() * 2.0**-12
        assert np.allclose(after[large], before[large], rtol=1e-3)
        assert np.array_equal(as_scales(after), after)
    found = {}
    for group in scale_groups(rounded):
        assert group.shares.dtype == np.float16
        values = group.shares.astype(np.float32) * np.float32(group.unit)
        sizes = [rounded[member].size for member in group.members]
        found |= dict(zip(group.members, np.split(values, np.cumsum(sizes)[:-1]), strict=True))
    assert sorted(found) == list(range(len(rounded)))
    assert all(np.array_equal(found[member], after) for member, after in enumerate(rounded))


def test_scales_of_one_network_form_one_group() -> None:
    scales = [as_scales(np.array([size, 2 * size], np.float32)) for size in (1e-3, 0.7, 3.0)]
    assert [group.members for group in scale_groups(scales)] == [(0, 1, 2)]

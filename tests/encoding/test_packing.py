"""Packing for every number of levels and every size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qqonnx.encoding.packing import Storage, digits, layouts, pack, storage_for, unpack


@given(levels=st.integers(1, 256), size=st.integers(0, 2000), seed=st.integers(0, 2**32 - 1))
def test_unpack_undoes_pack(levels: int, size: int, seed: int) -> None:
    indices = np.random.default_rng(seed).integers(0, levels, size).astype(np.uint8)
    storage = storage_for(levels)
    planes = pack(indices, storage)
    assert sum(plane.nbytes for plane in planes) == storage.packed_bytes(size)
    np.testing.assert_array_equal(unpack(planes, storage, size), indices)


@pytest.mark.parametrize("bits", range(1, 9))
def test_each_width_is_really_packed(bits: int) -> None:
    storage = storage_for(2**bits)
    assert storage.bits_per_weight == bits
    size = 8 * 9 * 5 * 7 * 64
    assert storage.packed_bytes(size) == size * bits // 8


@pytest.mark.parametrize(("levels", "bits"), [(3, 1.6), (6, 8 / 3), (5, 14 / 6), (10, 10 / 3)])
def test_levels_between_powers_of_two_take_fractions_of_bits(levels: int, bits: float) -> None:
    assert storage_for(levels).bits_per_weight == pytest.approx(bits)


@pytest.mark.parametrize("levels", range(2, 257))
def test_storage_is_near_the_entropy_bound_and_never_above_a_byte(levels: int) -> None:
    bits = storage_for(levels).bits_per_weight
    assert math.log2(levels) <= bits <= min(8, math.ceil(math.log2(levels)))


@pytest.mark.parametrize("levels", [0, 257, -1])
def test_levels_out_of_range(levels: int) -> None:
    with pytest.raises(ValueError, match="levels must be 1 to 256"):
        storage_for(levels)


def test_digits_are_those_of_the_numbers() -> None:
    for number, row in enumerate(digits(3, 4)):
        assert sum(int(digit) * 3**place for place, digit in enumerate(row[::-1])) == number


@given(size=st.integers(1, 2000))
def test_planes_tell_the_layout_of_old_files(size: int) -> None:
    """Version 0.1.0 packed three weights of 3 bits into 9 bits."""
    old = Storage(levels=8, group=3, plane_bits=(8, 1))
    assert old in layouts(8)
    assert old.plane_sizes(size) != storage_for(8).plane_sizes(size)

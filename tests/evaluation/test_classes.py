"""Outputs that make decisions: per sample, token and pixel, and what is no decision."""

from __future__ import annotations

import numpy as np
import pytest
from building import normal
from hypothesis import given
from hypothesis import strategies as st

from qqonnx.evaluation.classes import class_axis, compare_decisions
from qqonnx.evaluation.intervals import wilson
from qqonnx.evaluation.quality import compare_run, output_quality


def softmax(values: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(values.astype(np.float64))
    return (powers / powers.sum(axis=axis, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("output", "name", "axis"),
    [
        (normal(5, 10), "y", 1),
        (normal(5, 10, 1, 1), "y", 1),
        (softmax(normal(5, 7, 10), 2), "y", 2),
        (softmax(normal(5, 10, 4, 6), 1), "y", 1),
        (normal(5, 7, 10), "logits", 2),
        (normal(5, 10, 4, 6), "out_logits", 1),
        (normal(5, 7, 10), "last_hidden_state", None),
        (normal(5, 10), "sentence_embedding", None),
        (normal(2, 1, 10), "state", None),
        (normal(5, 4, 100), "boxes", None),
        (normal(5), "y", None),
        (normal(5, 1), "y", None),
    ],
)
def test_axis_of_the_classes(output: np.ndarray, name: str, axis: int | None) -> None:
    assert class_axis(output.astype(np.float64), name) == axis


def test_rows_of_length_one_are_features_unless_they_are_probabilities() -> None:
    rows = normal(6, 8)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert class_axis(rows) is None
    assert class_axis(np.eye(6)) == 1


@pytest.mark.parametrize(("shape", "axis"), [((5, 7, 10), 2), ((5, 10, 4, 6), 1), ((9, 3), 1)])
def test_decisions_are_the_largest_along_the_axis(shape: tuple[int, ...], axis: int) -> None:
    exact, other = softmax(normal(*shape), axis), softmax(normal(*shape, seed=1), axis)
    decisions = compare_decisions(exact, other)
    assert decisions is not None
    assert (decisions.equal == (exact.argmax(axis=axis) == other.argmax(axis=axis))).all()
    expected = (exact * np.log(exact / other)).sum(axis=axis)
    np.testing.assert_allclose(decisions.divergence, expected, atol=1e-5)


def test_one_probability_is_a_decision_at_one_half() -> None:
    exact, other = np.array([[0.9], [0.2], [0.6]]), np.array([[0.8], [0.4], [0.4]])
    decisions = compare_decisions(exact, other)
    assert decisions is not None
    assert decisions.equal.ravel().tolist() == [True, True, False]
    expected = exact * np.log(exact / other) + (1 - exact) * np.log((1 - exact) / (1 - other))
    np.testing.assert_allclose(decisions.divergence, expected)


def test_integers_are_decisions_without_divergence() -> None:
    quality = output_quality("ids", [np.array([[1, 2, 3, 4]])], [np.array([[1, 2, 3, 5]])])
    assert (quality.agreement, quality.kl) == (0.75, None)


def test_masked_positions_do_not_count() -> None:
    exact = softmax(normal(3, 6, 5), 2)
    mask = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
    other = exact.copy()
    other[~mask] = other[~mask][:, ::-1]
    quality = compare_run(exact, other, "y", mask).quality("y")
    assert (quality.agreement, quality.kl, quality.max_difference) == (1, 0, 0)
    unmasked = compare_run(exact, other, "y").quality("y")
    assert unmasked.agreement is not None
    assert unmasked.agreement < 1
    other[0, 0] = np.roll(other[0, 0], 1)
    quality = compare_run(exact, other, "y", mask).quality("y")
    assert quality.agreement == pytest.approx(10 / 11)


@given(st.integers(1, 5), st.integers(0, 1000))
def test_sums_of_runs_are_those_of_all_samples_at_once(size: int, seed: int) -> None:
    exact, other = normal(40, 6, seed=seed), normal(40, 6, seed=seed + 1)
    parts = [slice(start, start + size) for start in range(0, 40, size)]
    split = output_quality("y", [exact[part] for part in parts], [other[part] for part in parts])
    whole = output_quality("y", [exact], [other])
    for name, value in vars(whole).items():
        assert getattr(split, name) == pytest.approx(value), name


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_bounds_of_wilson_are_where_the_share_is_at_the_quantile(count: int, part: float) -> None:
    share = round(part * count) / count
    low, high = wilson(share, count)
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        # A true share at the bound lies 1.96 of its own standard errors from the share seen.
        if 1e-9 < bound < 1 - 1e-9:
            error = np.sqrt(bound * (1 - bound) / count)
            assert abs(bound - share) == pytest.approx(1.959964 * error, rel=1e-3)


def test_decisions_of_one_sample_are_not_taken_for_independent() -> None:
    random = np.random.default_rng(0)
    exact = softmax(random.standard_normal((50, 200, 4)), 2)
    together, apart = exact.copy(), exact.copy()
    together[:5] = together[:5, :, ::-1]  # 5 of 50 samples lose all their decisions
    lost = random.random((50, 200)) < 0.1  # every sample loses a tenth of them
    apart[lost] = apart[lost][:, ::-1]
    intervals = []
    for other in (together, apart):
        quality = output_quality("y", [exact], [other])
        assert quality.agreement == pytest.approx(0.9, abs=0.01)
        assert quality.agreement_interval is not None
        intervals.append(quality.agreement_interval)
    assert intervals[0] == pytest.approx(wilson(0.9, 50), abs=0.01)
    assert intervals[1] == pytest.approx(wilson(0.9, 10_000), abs=0.01)

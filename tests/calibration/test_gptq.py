"""Error feedback, compared with the algorithm as it was published."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.calibration.gptq import gptq


def as_published(
    matrix: np.ndarray, moment: np.ndarray, levels: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    """Return indices by GPTQ (Frantar and others, 2023), with the columns by falling moment."""
    order = np.argsort(-np.diag(moment), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(moment[order][:, order])).T
    left = matrix[:, order].astype(np.float64)
    indices = np.empty(matrix.shape, int)
    for column in range(matrix.shape[1]):
        nearest = np.abs(left[:, column, None] / scales[:, None] - levels).argmin(axis=1)
        error = (left[:, column] - levels[nearest] * scales) / upper[column, column]
        left[:, column:] -= np.outer(error, upper[column, column:])
        indices[:, order[column]] = nearest
    return indices


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 20, 70, 130]), st.booleans())
def test_indices_are_those_of_the_published_algorithm(seed, columns, scaled):
    random = np.random.default_rng(seed)
    x = random.standard_normal((4 * columns, columns)) @ random.standard_normal((columns, columns))
    moment = (x.T @ x / len(x) + np.eye(columns)).astype(np.float32)
    matrix = random.standard_normal((1, 9, columns)).astype(np.float32)
    found = gptq(matrix, moment[None], 6, scaled=scaled, rounds=0)
    expected = as_published(matrix[0], moment.astype(np.float64), found.levels, found.scales[0])
    # Values halfway between two levels may go either way.
    assert (found.indices[0] == expected).mean() > 0.99


def test_groups_are_quantized_as_if_each_stood_alone():
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 200, 12)) @ random.standard_normal((3, 12, 12))
    moment = (x.transpose(0, 2, 1) @ x / 200).astype(np.float32)
    matrix = random.standard_normal((3, 5, 12)).astype(np.float32)
    together = gptq(matrix, moment, 4, scaled=True, rounds=0)
    for group in range(3):
        expected = as_published(
            matrix[group],
            moment[group].astype(np.float64),
            together.levels,
            together.scales[group],
        )
        assert (together.indices[group] == expected).mean() > 0.95

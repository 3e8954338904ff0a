"""Values drawn from known distributions: errors, entropy, and where the error comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import assign, distortion, fit, index_entropy
from qqonnx.study.schemes import BITS, FITTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

SEED = 0


@dataclass(frozen=True)
class Distribution:
    """A distribution to draw weights from.

    Attributes:
        key: short and unique.
        label: what figures call it.
        draw: from a generator and a number to values.
    """

    key: str
    label: str
    draw: Callable[[np.random.Generator, int], FloatArray]


def _mixture(centers: tuple[float, ...], shares: tuple[float, ...]) -> Any:
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
    """Return `count` seeded values of a distribution, in units of their standard deviation."""
    [chosen] = [entry for entry in DISTRIBUTIONS if entry.key == key]
    values = chosen.draw(np.random.default_rng(SEED), count)
    scaled: FloatArray = values / values.std()
    return scaled


@dataclass(frozen=True)
class DistributionJob:
    """Every scheme at every bit-width on values of one distribution.

    Attributes:
        distribution: its key.
        count: how many values; the range of UQ grows with it.
    """

    distribution: str
    count: int

    @property
    def key(self) -> str:
        """What the result depends on, but for versions."""
        schemes = ",".join(scheme.key for scheme in FITTED)
        return f"distribution {self.distribution} {self.count} {SEED} {schemes} {BITS}"

    @property
    def cost(self) -> float:
        """Time it takes, in the unit of `NetworkJob`."""
        return 100.0 * self.count

    def run(self) -> dict[str, Any]:
        """Return `rows`, one for each scheme and bit-width.

        Each holds scheme, bits, l1 (in standard deviations), l2 (in variances), entropy (bits),
        and the shares of the two outermost bins in the values and in the squared error.
        """
        values = draw(self.distribution, self.count)
        rows = []
        for scheme in FITTED:
            for bits in BITS:
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
                        "distribution": self.distribution,
                        "scheme": scheme.key,
                        "bits": bits,
                        "l1": error.l1,
                        "l2": error.l2,
                        "entropy": index_entropy(np.bincount(indices)),
                        "outer_values": float(outer.mean()),
                        "outer_squared": float(square[outer].sum() / square.sum()),
                    }
                )
        return {"rows": rows}

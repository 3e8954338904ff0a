"""Levels of a normal distribution: UNIQ's, fitted to the values, and NormalFloat's, fixed."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.codebook import Codebook, FloatArray, nearest
from qqonnx.codebooks.method import Method

if TYPE_CHECKING:
    from qqonnx.codebooks.sample import Sample

_UNIT = NormalDist()


def fit_uniq(sample: Sample, levels: int) -> Codebook:
    """Return bins of equal mass under the normal distribution of the values' mean and deviation.

    Each bin's level is its median under that distribution. Importance has no influence.

    Source: Baskin et al., *UNIQ: Uniform Noise Injection for Non-Uniform Quantization of Neural
    Networks*, 2018: the k-quantile quantizer t_i = F^-1(i / k), q_i = F^-1((i + 1/2) / k).
    """
    mean, deviation = sample.mean(), sample.deviation()
    # The fitted quantiles of values far from normal may lie beyond all of them.
    quantiles = np.clip(mean + deviation * _quantiles(levels), sample.low, sample.high)
    books, thresholds = quantiles[::2], quantiles[1::2]
    kept = np.concatenate((books[1:] > books[:-1], [True]))
    return Codebook(books[kept], thresholds[kept[:-1]])


def _quantiles(levels: int) -> FloatArray:
    """Return the levels and between them the thresholds for N(0, 1), [2k - 1], ascending."""
    upper = [_UNIT.inv_cdf(1 - i / (2 * levels)) for i in range(1, levels)]
    return np.array([*(-x for x in upper), 0.0, *reversed(upper)])


def fit_normal_float(sample: Sample, levels: int) -> Codebook:
    """Return NormalFloat's levels, scaled so that the outermost is the greatest magnitude.

    Nearest level; importance has no influence.
    """
    return nearest(normal_float(levels) * max(-sample.low, sample.high))


def normal_float(levels: int) -> FloatArray:
    """Return `levels` ascending levels in [-1, 1], zero among them; NF4's for 16.

    With an offset d close to 1, the positive levels are the quantiles F^-1 at equal steps from
    1/2 (left out) to d, the negative ones mirrored and, for an even number, one fewer. d is the
    mean of 1 - 1/(2k) and 1 - 1/(2(k - 1)). One level is 0; two are -1 and 1, since zero beside
    a single other level would leave one sign without any.

    Source: Dettmers et al., *QLoRA*, 2023, and `create_normal_map` of bitsandbytes, which
    are for k = 16; the offset's rule gives the published 0.9677083 there.
    """
    if levels == 1:
        return np.zeros(1)
    if levels == 2:
        return np.array([-1.0, 1.0])
    offset = 1 - (1 / (2 * levels) + 1 / (2 * (levels - 1))) / 2
    positive = _half(levels // 2, offset)
    negative = _half(levels - 1 - levels // 2, offset)
    found: FloatArray = np.concatenate((-negative[::-1], [0.0], positive)) / positive[-1]
    return found


def _half(count: int, offset: float) -> FloatArray:
    step = (offset - 0.5) / count
    return np.array(
        [_UNIT.inv_cdf(0.5 + step * i) for i in range(1, count)] + [_UNIT.inv_cdf(offset)]
    )


METHODS = (
    Method("uniq", "UNIQ: bins of equal mass under a fitted normal distribution", fit_uniq),
    Method(
        "nf", "NormalFloat: quantiles of a normal distribution (NF4 at 4 bits)", fit_normal_float
    ),
)

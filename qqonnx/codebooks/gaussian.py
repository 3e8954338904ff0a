"""Levels from a normal distribution: UNIQ fits it to the values, NormalFloat has fixed levels."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.codebook import Codebook, FloatArray, nearest, without_equal_levels
from qqonnx.codebooks.method import Method

if TYPE_CHECKING:
    from qqonnx.codebooks.sample import Sample

_UNIT = NormalDist()


def fit_uniq(sample: Sample, levels: int) -> Codebook:
    """Return bins of equal mass under a normal distribution fitted to the values.

    The distribution has the mean and the standard deviation of the values. The level of a bin is
    its median under the distribution. `importance` is ignored.

    Source: Baskin et al., *UNIQ: Uniform Noise Injection for Non-Uniform Quantization of Neural
    Networks*, 2018: the k-quantile quantizer t_i = F^-1(i / k), q_i = F^-1((i + 1/2) / k).
    """
    mean, deviation = sample.mean(), sample.deviation()
    # For values far from normal, fitted quantiles may lie outside the range of the values.
    quantiles = np.clip(mean + deviation * _quantiles(levels), sample.low, sample.high)
    return without_equal_levels(quantiles[::2], quantiles[1::2])


def _quantiles(levels: int) -> FloatArray:
    """Return levels and thresholds for N(0, 1), alternating, [2k - 1], ascending."""
    upper = [_UNIT.inv_cdf(1 - i / (2 * levels)) for i in range(1, levels)]
    return np.array([*(-x for x in upper), 0.0, *reversed(upper)])


def fit_normal_float(sample: Sample, levels: int) -> Codebook:
    """Return the levels of NormalFloat, scaled to the greatest magnitude of the values.

    Values go to the nearest level. `importance` is ignored.
    """
    return nearest(normal_float(levels) * max(-sample.low, sample.high))


def normal_float(levels: int) -> FloatArray:
    """Return k = `levels` ascending levels in [-1, 1] that include zero; NF4's for k = 16.

    The positive levels are the quantiles F^-1 at equal steps from 1/2 (excluded) to the offset
    d, which is the mean of 1 - 1/(2k) and 1 - 1/(2(k - 1)). The negative levels mirror them,
    with one level fewer if k is even. One level is 0. Two levels are -1 and 1, because with zero
    one sign would have no level.

    Source: Dettmers et al., *QLoRA*, 2023, and `create_normal_map` of bitsandbytes, both for
    k = 16, where this rule gives the published offset 0.9677083.
    """
    if levels == 1:
        return np.zeros(1)
    if levels == 2:
        return np.array([-1.0, 1.0])
    offset = 1 - (1 / (2 * levels) + 1 / (2 * (levels - 1))) / 2
    positive = _positive_quantiles(levels // 2, offset)
    negative = _positive_quantiles(levels - 1 - levels // 2, offset)
    ascending: FloatArray = np.concatenate((-negative[::-1], [0.0], positive)) / positive[-1]
    return ascending


def _positive_quantiles(count: int, offset: float) -> FloatArray:
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

"""Quantization error and index entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks.keys import slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.codebooks.codebook import Weights


@dataclass(frozen=True)
class Distortion:
    """Error of decoded values against the original ones.

    Attributes:
        l1: mean absolute error, in the unit of the values.
        l2: mean squared error, in the squared unit of the values.
        sqnr: signal-to-quantization-noise ratio in dB, 10 log10(mean v^2 / l2); infinite if
            there is no error.
    """

    l1: float
    l2: float
    sqnr: float


def distortion(values: Weights, decoded: Weights) -> Distortion:
    """Return the error of `decoded` against `values`, both [n], n >= 1; sums are in float64."""
    count = values.size
    flat, other = values.reshape(-1), decoded.reshape(-1)
    absolute = squared = signal = 0.0
    for part in slices(count):
        exact = flat[part].astype(np.float64)
        error = exact - other[part].astype(np.float64)
        absolute += float(np.abs(error).sum())
        squared += float(np.square(error).sum())
        signal += float(np.square(exact).sum())
    if squared == 0:
        sqnr = math.inf
    else:
        sqnr = 10 * math.log10(signal / squared) if signal > 0 else -math.inf
    return Distortion(absolute / count, squared / count, sqnr)


def index_entropy(counts: NDArray[Any]) -> float:
    """Return the entropy in bits per index, from the `counts` [k] of each index."""
    used = counts[counts > 0].astype(np.float64)
    share = used / used.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0

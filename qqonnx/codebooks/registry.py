"""The table of codebook methods, and `fit` by the name of a method."""

from __future__ import annotations

import operator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import gaussian, kmeans, piecewise, quantile, quantile_variants, uniform
from qqonnx.codebooks.codebook import MAX_LEVELS, nearest, without_equal_levels
from qqonnx.codebooks.keys import CHUNK
from qqonnx.codebooks.plugins import plugin_method, plugin_names
from qqonnx.codebooks.sample import sample_of
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qqonnx.codebooks.codebook import Codebook, FloatArray, Weights
    from qqonnx.codebooks.method import Method
    from qqonnx.codebooks.sample import Sample

_FAMILIES = (uniform, piecewise, gaussian, quantile, quantile_variants, kmeans)

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for family in _FAMILIES for method in family.METHODS}
)
"""The built-in codebook methods by name. To add one, add it to the tuple `METHODS` of a module in
`_FAMILIES`. Other packages add methods by entry points (`plugins.py`)."""


def method_named(name: str) -> Method:
    """Return the method called `name`, built-in or from an installed package.

    Raises:
        QqonnxError: there is no such method (the message lists the known ones), or the method of
            a package is broken.
    """
    if name in METHODS:
        return METHODS[name]
    method = plugin_method(name)
    if method is None:
        known = [*METHODS, *plugin_names()]
        raise QqonnxError(f"unknown method {name!r}; known: {', '.join(known)}")
    return method


def fit(
    values: Weights,
    method: str | Method,
    levels: int,
    *,
    importance: NDArray[Any] | None = None,
) -> Codebook:
    """Return a codebook for `values`.

    With at most `levels` distinct values, the codebook is these values for every method, and
    quantization is lossless.

    Args:
        values: [n], n >= 1; float16, bfloat16, float32 or float64; finite.
        method: name of a built-in method or of a package's method, or a `Method`.
        levels: greatest number of levels, 1..256; the codebook may have fewer.
        importance: non-negative weight [n] of the error of each value; some methods ignore it.

    Raises:
        QqonnxError: the method is unknown, `levels` is out of range, there are no values, a value
            is not finite, or the importance is invalid.
    """
    chosen = method_named(method) if isinstance(method, str) else method
    count = operator.index(levels)
    if not 1 <= count <= MAX_LEVELS:
        raise QqonnxError(f"a codebook has 1 to {MAX_LEVELS} levels, not {count}")
    sample = sample_of(values, importance)
    distinct = _distinct_values(sample.values, count)
    if distinct is not None:
        return nearest(distinct)
    return _rescaled(chosen.fit(sample, count), sample)


def _distinct_values(values: Weights, limit: int) -> FloatArray | None:
    """Return the distinct `values` [n] if there are at most `limit`."""
    distinct = np.empty(0)
    start, size = 0, 4 * limit
    while start < values.size:
        chunk = values[start : start + size].astype(np.float64)
        distinct = np.unique(np.concatenate((distinct, chunk)))
        if distinct.size > limit:
            return None
        start, size = start + size, min(2 * size, CHUNK)
    return distinct + 0.0


def _rescaled(codebook: Codebook, sample: Sample) -> Codebook:
    """Convert a codebook from the scale of the sample to the scale of the values."""
    # A level that rounding moved beyond the greatest value could overflow.
    largest = max(-sample.low, sample.high)
    inside = np.clip(codebook.levels, -largest, largest)
    levels = np.ldexp(inside, sample.exponent) + 0.0
    thresholds = np.ldexp(codebook.thresholds, sample.exponent) + 0.0
    # Denormal levels may become equal at the scale of the values.
    return without_equal_levels(levels, thresholds)

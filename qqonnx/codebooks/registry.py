"""The codebook methods, and fitting by name."""

from __future__ import annotations

import operator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import gaussian, kmeans, mended, piecewise, quantile, uniform
from qqonnx.codebooks.codebook import MAX_LEVELS, Codebook, FloatArray, Weights, nearest
from qqonnx.codebooks.keys import CHUNK
from qqonnx.codebooks.plugins import plugin_method, plugin_names
from qqonnx.codebooks.sample import sample_of
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qqonnx.codebooks.method import Method
    from qqonnx.codebooks.sample import Sample

_FAMILIES = (uniform, piecewise, gaussian, quantile, mended, kmeans)

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for family in _FAMILIES for method in family.METHODS}
)
"""Every built-in codebook method by name. A new one is a module with a tuple `METHODS`, named
above; other packages offer theirs by entry points (`plugins.py`)."""


def method_named(name: str) -> Method:
    """Return the method called `name`: a built-in one, or one that an installed package offers.

    Raises:
        QqonnxError: there is none (the message lists the known ones), or a package's is broken.
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

    If there are no more distinct values than levels, the codebook is those values, whatever
    the method: lossless.

    Args:
        values: [n], n >= 1; float16, bfloat16, float32 or float64; finite.
        method: a name in `METHODS`, that of a package's method, or a method itself.
        levels: greatest number of levels, 1..256; the codebook may have fewer.
        importance: non-negative weight [n] of each value's error, for methods that use it.

    Raises:
        QqonnxError: unknown method, levels out of range, no values, a value that is not
            finite, or a bad importance.
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
    found = np.empty(0)
    start, size = 0, 4 * limit
    while start < values.size:
        chunk = values[start : start + size].astype(np.float64)
        found = np.unique(np.concatenate((found, chunk)))
        if found.size > limit:
            return None
        start, size = start + size, min(2 * size, CHUNK)
    return found + 0.0


def _rescaled(codebook: Codebook, sample: Sample) -> Codebook:
    """Return a codebook at its sample's scale as one at the scale of the values."""
    # A level that rounding puts beyond the greatest value could overflow.
    largest = max(-sample.low, sample.high)
    inside = np.clip(codebook.levels, -largest, largest)
    levels = np.ldexp(inside, sample.exponent) + 0.0
    thresholds = np.ldexp(codebook.thresholds, sample.exponent) + 0.0
    # Levels that the values' own scale cannot tell apart (denormals) become one.
    distinct = np.concatenate((levels[1:] > levels[:-1], [True]))
    return Codebook(levels[distinct], thresholds[distinct[:-1]])

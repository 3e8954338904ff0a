"""Codebook methods of other packages: entry points of the group `qqonnx.codebooks`.

The name of an entry point is the name of the method, and its object is a `Method`. Entry points
are looked up only if no built-in method has the name, because the look-up takes time.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks.codebook import Codebook
from qqonnx.codebooks.method import Method
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from qqonnx.codebooks.sample import Sample

GROUP = "qqonnx.codebooks"


def plugin_names() -> list[str]:
    """Return the names of the methods that installed packages offer, sorted."""
    return sorted({entry.name for entry in _entries()})


def plugin_method(name: str) -> Method | None:
    """Return the method called `name` of an installed package, or None if there is none.

    Every codebook that the method fits is checked: errors name the package.

    Raises:
        QqonnxError: two packages offer the name, the method cannot be imported, or it is not a
            `Method` of that name.
    """
    entries = [entry for entry in _entries() if entry.name == name]
    if not entries:
        return None
    if len({entry.value for entry in entries}) > 1:
        raise QqonnxError(f"method {name!r} is offered by {' and '.join(map(_origin, entries))}")
    origin = _origin(entries[0])
    try:
        method = entries[0].load()
    except Exception as error:  # importing runs foreign code
        raise QqonnxError(
            f"method {name!r} of {origin} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(method, Method):
        raise QqonnxError(f"method {name!r} of {origin} is a {type(method).__name__}, not a Method")
    if method.name != name:
        raise QqonnxError(f"method {name!r} of {origin} has the name {method.name!r}")
    return replace(method, fit=partial(_checked_fit, method, origin))


def _checked_fit(method: Method, origin: str, sample: Sample, levels: int) -> Codebook:
    try:
        codebook = method.fit(sample, levels)
        violation = _violation(codebook, levels)
    except QqonnxError:
        raise
    except Exception as error:
        raise QqonnxError(
            f"method {method.name!r} of {origin} failed: {type(error).__name__}: {error}"
        ) from error
    if violation:
        raise QqonnxError(f"method {method.name!r} of {origin} {violation}")
    return codebook


def _violation(codebook: Codebook, most: int) -> str | None:
    """Return what is wrong with a codebook of at most `most` levels, or None."""
    if not isinstance(codebook, Codebook):
        return f"returns a {type(codebook).__name__}, not a Codebook"
    levels, thresholds = codebook.levels, codebook.thresholds
    if levels.ndim != 1 or not 1 <= levels.size <= most:
        return f"returns levels of shape {levels.shape} instead of 1 to {most} levels"
    if thresholds.shape != (levels.size - 1,):
        return f"returns thresholds of shape {thresholds.shape} for {levels.size} levels"
    for what, values in (("levels", levels), ("thresholds", thresholds)):
        if values.dtype != np.float64 or not np.isfinite(values).all():
            return f"returns {what} that are not finite float64 numbers"
        if (np.diff(values) < 0).any():
            return f"returns {what} that are not ascending"
    return None


def _entries() -> list[EntryPoint]:
    from importlib.metadata import entry_points

    return list(entry_points(group=GROUP))


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} ({entry.value})" if entry.dist else entry.value

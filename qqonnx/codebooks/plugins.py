"""Codebook methods of other packages: entry points of the group `qqonnx.codebooks`.

An entry point's name is the method's, its object a `Method`. They are looked up only when a
name is none of the built-in ones, so that nobody else pays for it.
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
    """Return the method called `name` of an installed package, or None if none offers it.

    The codebooks it fits are checked: a mistake in a package becomes an error that names it.

    Raises:
        QqonnxError: two packages offer the name, it cannot be imported, or is no such method.
    """
    found = [entry for entry in _entries() if entry.name == name]
    if not found:
        return None
    if len({entry.value for entry in found}) > 1:
        raise QqonnxError(f"method {name!r} is offered by {' and '.join(map(_origin, found))}")
    origin = _origin(found[0])
    try:
        method = found[0].load()
    except Exception as error:  # importing runs a stranger's code
        raise QqonnxError(
            f"method {name!r} of {origin} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(method, Method):
        raise QqonnxError(f"method {name!r} of {origin} is a {type(method).__name__}, no Method")
    if method.name != name:
        raise QqonnxError(f"method {name!r} of {origin} calls itself {method.name!r}")
    return replace(method, fit=partial(_checked_fit, method, origin))


def _checked_fit(method: Method, origin: str, sample: Sample, levels: int) -> Codebook:
    try:
        codebook = method.fit(sample, levels)
        fault = _fault(codebook, levels)
    except QqonnxError:
        raise
    except Exception as error:
        raise QqonnxError(
            f"method {method.name!r} of {origin} failed: {type(error).__name__}: {error}"
        ) from error
    if fault:
        raise QqonnxError(f"method {method.name!r} of {origin} {fault}")
    return codebook


def _fault(codebook: Codebook, levels: int) -> str | None:
    if not isinstance(codebook, Codebook):
        return f"returns a {type(codebook).__name__}, no Codebook"
    found, thresholds = codebook.levels, codebook.thresholds
    if found.ndim != 1 or not 1 <= found.size <= levels:
        return f"returns levels of shape {found.shape}, for 1 to {levels} of them"
    if thresholds.shape != (found.size - 1,):
        return f"returns thresholds of shape {thresholds.shape} between {found.size} levels"
    for what, values in (("levels", found), ("thresholds", thresholds)):
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

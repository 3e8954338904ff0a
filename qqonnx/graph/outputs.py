"""Run two models on the same made-up inputs and compare what they give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from qqonnx.errors import QqonnxError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOLERANCE = 1e-3
"""Largest difference of outputs, relative to the largest absolute one.

Equal weights can still give outputs that differ in rounding, where ONNX Runtime orders the sums
of a folded weight otherwise than those of a plain one.
"""

SYMBOLIC_SIZE = 8
"""Size given to an unnamed or symbolic dimension when making up inputs; the first one is 1."""

_FLOATS = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2"}
_INTEGERS = {
    f"tensor({name}{n})": f"{name}{n}" for name in ("int", "uint") for n in (8, 16, 32, 64)
}

Inputs = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class OutputCheck:
    """How the outputs of two models compare on one made-up input.

    Attributes:
        max_difference: largest absolute difference; None if they could not be compared, infinite
            if shapes differ, or one output is NaN or infinite where the other is not.
        magnitude: largest absolute finite output of the reference.
        reason: why they could not be compared; None if they were.
    """

    max_difference: float | None
    magnitude: float | None
    reason: str | None = None

    @property
    def equal(self) -> bool:
        """Whether the outputs agree to `TOLERANCE`."""
        if self.max_difference is None or self.magnitude is None:
            return False
        return self.max_difference <= TOLERANCE * self.magnitude


def compare_outputs(reference: Path, other: Path, *, optimized: bool = True) -> OutputCheck:
    """Run two models, one after the other, on the same made-up inputs.

    Inputs are seeded normal noise for floats, true, zero or empty otherwise, of batch size 1.

    Args:
        reference: a model.
        other: another, with the same inputs and outputs.
        optimized: whether ONNX Runtime may optimize the models, as it does by default.

    Raises:
        QqonnxError: ONNX Runtime loads and runs the reference, but not `other`; or the two have
            different numbers of outputs.
    """
    try:
        session = _session(reference, optimized)
    except QqonnxError as error:
        return OutputCheck(None, None, str(error))
    try:
        inputs = _made_up_inputs(session)
        expected = session.run(None, inputs)
    except Exception as error:
        _session(other, optimized)
        return OutputCheck(None, None, f"made-up inputs do not run: {first_line(error)}")
    # Of two models, which may be large, only one at a time is in memory.
    del session
    session = _session(other, optimized)
    try:
        actual = session.run(None, inputs)
    except Exception as error:
        raise QqonnxError(f"{other}: does not run: {first_line(error)}") from error
    if len(actual) != len(expected):
        raise QqonnxError(f"{other}: gives {len(actual)} outputs, {reference} {len(expected)}")
    return compare_arrays(expected, actual)


def compare_arrays(expected: Sequence[Any], actual: Sequence[Any]) -> OutputCheck:
    """Compare outputs: arrays of numbers, and others such as sequences, which do not count."""
    difference = magnitude = 0.0
    finite_outputs = 0
    for left, right in zip(expected, actual, strict=True):
        if not (isinstance(left, np.ndarray) and left.dtype.kind in "fiub"):
            continue
        if not isinstance(right, np.ndarray) or left.shape != right.shape:
            return OutputCheck(math.inf, magnitude)
        exact, found = left.astype(np.float64), right.astype(np.float64)
        finite = np.isfinite(exact)
        finite_outputs += int(finite.sum())
        magnitude = max(magnitude, float(np.abs(exact[finite]).max(initial=0)))
        both = finite & np.isfinite(found)
        difference = max(difference, float(np.abs(exact[both] - found[both]).max(initial=0)))
        same = (exact == found) | (np.isnan(exact) & np.isnan(found))
        if not (both | same).all():
            difference = math.inf
    if not finite_outputs and not difference:
        return OutputCheck(None, None, "made-up inputs give no output that is a finite number")
    return OutputCheck(difference, magnitude)


def _session(path: Path, optimized: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise QqonnxError(f"{path}: ONNX Runtime does not load it: {first_line(error)}") from error


def _made_up_inputs(session: ort.InferenceSession) -> Inputs:
    random = np.random.default_rng(0)
    inputs = {}
    sizes: dict[str, int] = {}
    for entry in session.get_inputs():
        shape = [_size(size, axis, sizes) for axis, size in enumerate(entry.shape)]
        if entry.type in _FLOATS:
            inputs[entry.name] = random.standard_normal(shape).astype(_FLOATS[entry.type])
        elif entry.type in _INTEGERS:
            inputs[entry.name] = np.zeros(shape, _INTEGERS[entry.type])
        elif entry.type == "tensor(bool)":
            inputs[entry.name] = np.ones(shape, np.bool_)
        elif entry.type == "tensor(string)":
            inputs[entry.name] = np.full(shape, "", np.object_)
        else:
            raise QqonnxError(f"input {entry.name!r} is a {entry.type}")
    return inputs


def _size(size: object, axis: int, named: dict[str, int]) -> int:
    made_up = 1 if axis == 0 else SYMBOLIC_SIZE
    if isinstance(size, str):
        return named.setdefault(size, made_up)
    return size if isinstance(size, int) and size > 0 else made_up

"""Run two models on the same made-up inputs and compare what they give."""

from __future__ import annotations

import math
import threading
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

SYMBOLIC_SIZES = (8, 64, 512)
"""Sizes tried in turn for an unnamed or symbolic dimension of made-up inputs; the first is 1."""

MAX_INPUT_BYTES = 2**30
"""Made-up inputs that would be larger are not made."""

RUN_SECONDS = 60.0
"""A run that takes longer is ended: a model can hold a loop that does not."""

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
    Runs are ended after `RUN_SECONDS`.

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
        inputs, expected = run_made_up(session)
    except Exception as error:
        _session(other, optimized)
        return OutputCheck(None, None, f"made-up inputs do not run: {first_line(error)}")
    # Of two models, which may be large, only one at a time is in memory.
    del session
    session = _session(other, optimized)
    try:
        actual = _run(session, inputs)
    except TimeoutError as error:
        return OutputCheck(None, None, str(error))
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


def run_made_up(session: ort.InferenceSession) -> tuple[Inputs, list[Any]]:
    """Return made-up inputs that run, and the outputs; a model may refuse the smallest sizes.

    Raises:
        TimeoutError: a run took more than `RUN_SECONDS`.
        Exception: whatever the smallest inputs fail with, if none run.
    """
    errors = []
    # Inner axes may be a batch too, as that of a state beside a signal.
    attempts = [(size, inner) for inner in (True, False) for size in SYMBOLIC_SIZES]
    for size, inner in attempts:
        try:
            inputs = _made_up_inputs(session, size, inner)
            return inputs, _run(session, inputs)
        except TimeoutError:  # noqa: PERF203 - a few sizes
            raise
        except Exception as error:
            errors.append(error)
    raise errors[0]


def _run(session: ort.InferenceSession, inputs: Inputs) -> list[Any]:
    options = ort.RunOptions()
    options.log_severity_level = 4
    timer = threading.Timer(RUN_SECONDS, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        outputs: list[Any] = session.run(None, inputs, options)
    except Exception as error:
        if options.terminate:
            raise TimeoutError(f"a run took more than {RUN_SECONDS:g} s") from error
        raise
    finally:
        timer.cancel()
    return outputs


def _session(path: Path, optimized: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Waiting threads would take the processor from whatever else runs on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise QqonnxError(f"{path}: ONNX Runtime does not load it: {first_line(error)}") from error


def _made_up_inputs(session: ort.InferenceSession, symbolic: int, inner: bool) -> Inputs:
    """Return inputs whose open axes are of size `symbolic`; 1 the first, and inner ones if told."""
    random = np.random.default_rng(0)
    inputs = {}
    sizes: dict[str, int] = {}
    for entry in session.get_inputs():
        last = len(entry.shape) - 1
        shape = [
            _size(size, sizes, symbolic if axis and (inner or axis == last) else 1)
            for axis, size in enumerate(entry.shape)
        ]
        if 8 * math.prod(shape) > MAX_INPUT_BYTES:
            raise QqonnxError(f"input {entry.name!r} would be too large")
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


def _size(size: object, named: dict[str, int], made_up: int) -> int:
    if isinstance(size, str):
        return named.setdefault(size, made_up)
    return size if isinstance(size, int) and size > 0 else made_up

"""Compare the outputs of two models on the same made-up inputs."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOLERANCE = 1e-3
"""Largest allowed difference of outputs, relative to the largest absolute output.

Equal weights can give outputs that differ by rounding: ONNX Runtime may sum in another order for
a constant-folded weight than for a plain one.
"""

SYMBOLIC_SIZES = (8, 64, 512)
"""Sizes tried in turn for a symbolic dimension of an input; a symbolic batch dimension is 1."""

MAX_INPUT_BYTES = 2**30
"""Limit on the size of one made-up input."""

RUN_SECONDS = 60.0
"""Time limit of one run: a model can contain an endless loop."""

_FLOATS = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2"}
_INTEGERS = {
    f"tensor({name}{n})": f"{name}{n}" for name in ("int", "uint") for n in (8, 16, 32, 64)
}

Inputs = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class OutputCheck:
    """Difference between the outputs of two models on one made-up input.

    Attributes:
        max_difference: largest absolute difference; infinite if shapes differ or only one of the
            outputs is NaN or infinite; None if the outputs could not be compared.
        magnitude: largest absolute finite output of the reference model.
        reason: why the outputs could not be compared; None if they were.
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

    Float inputs are seeded normal noise; other inputs are true, zero or empty. The batch size is
    1. A run is stopped after `RUN_SECONDS`.

    Args:
        reference: the ONNX file to compare with.
        other: an ONNX file with the same inputs and outputs.
        optimized: whether ONNX Runtime may optimize the models, as it does by default.

    Raises:
        QqonnxError: ONNX Runtime loads and runs `reference`, but not `other`; or the numbers of
            outputs differ.
    """
    try:
        session = open_session(reference, spinning=False, optimized=optimized)
    except QqonnxError as error:
        return OutputCheck(None, None, str(error))
    try:
        inputs, expected = run_made_up(session)
    except Exception as error:
        open_session(other, spinning=False, optimized=optimized)
        return OutputCheck(None, None, f"made-up inputs do not run: {first_line(error)}")
    # Models may be large: keep only one of them in memory.
    del session
    session = open_session(other, spinning=False, optimized=optimized)
    try:
        actual = run_limited(session, inputs)
    except TimeoutError as error:
        return OutputCheck(None, None, str(error))
    except Exception as error:
        raise QqonnxError(f"{other}: does not run: {first_line(error)}") from error
    if len(actual) != len(expected):
        raise QqonnxError(f"{other}: gives {len(actual)} outputs, {reference} {len(expected)}")
    return compare_arrays(expected, actual)


def compare_arrays(expected: Sequence[Any], actual: Sequence[Any]) -> OutputCheck:
    """Compare outputs one by one; outputs that are not numeric arrays are ignored."""
    difference = magnitude = 0.0
    finite_outputs = 0
    for left, right in zip(expected, actual, strict=True):
        if not (isinstance(left, np.ndarray) and left.dtype.kind in "fiub"):
            continue
        if not isinstance(right, np.ndarray) or left.shape != right.shape:
            return OutputCheck(math.inf, magnitude)
        exact, other = left.astype(np.float64), right.astype(np.float64)
        finite = np.isfinite(exact)
        finite_outputs += int(finite.sum())
        magnitude = max(magnitude, float(np.abs(exact[finite]).max(initial=0)))
        both = finite & np.isfinite(other)
        difference = max(difference, float(np.abs(exact[both] - other[both]).max(initial=0)))
        same = (exact == other) | (np.isnan(exact) & np.isnan(other))
        if not (both | same).all():
            difference = math.inf
    if not finite_outputs and not difference:
        return OutputCheck(None, None, "made-up inputs give no output that is a finite number")
    return OutputCheck(difference, magnitude)


def run_made_up(session: ort.InferenceSession) -> tuple[Inputs, list[Any]]:
    """Return made-up inputs that the model accepts, and its outputs for them.

    Larger sizes are tried if the model rejects smaller ones.

    Raises:
        TimeoutError: a run took more than `RUN_SECONDS`.
        Exception: the error of the smallest inputs, if the model accepts none.
    """
    errors = []
    # An inner axis may be a batch axis too, as in the state of a recurrent network.
    attempts = [(size, inner) for inner in (True, False) for size in SYMBOLIC_SIZES]
    for size, inner in attempts:
        try:
            inputs = _made_up_inputs(session, size, inner)
            return inputs, run_limited(session, inputs)
        except TimeoutError:  # noqa: PERF203 - a few sizes
            raise
        except Exception as error:
            errors.append(error)
    raise errors[0]


def run_limited(session: ort.InferenceSession, inputs: Inputs) -> list[Any]:
    """Run a session for at most `RUN_SECONDS`; return all outputs.

    Raises:
        TimeoutError: the run took longer.
        Exception: whatever ONNX Runtime raises.
    """
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


def _made_up_inputs(session: ort.InferenceSession, symbolic: int, inner: bool) -> Inputs:
    """Return inputs by name.

    Args:
        session: the model's session.
        symbolic: size of symbolic axes; the first axis has size 1.
        inner: whether `symbolic` holds for every other axis, or for the last one only.
    """
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

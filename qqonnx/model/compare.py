"""Compare the outputs of two models on the same synthetic inputs."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from google.protobuf.message import DecodeError, EncodeError

from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.random import with_seeds
from qqonnx.model.session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOLERANCE = 1e-3
"""Largest allowed difference between outputs, relative to the largest absolute output.

Outputs of equal weights can differ by rounding: ONNX Runtime may sum in a different order if a
weight is constant-folded.
"""

SYMBOLIC_SIZES = (8, 64, 512)
"""Sizes to try, in this order, for symbolic dimensions of an input, except the batch dimension."""

MAX_INPUT_BYTES = 2**30
"""Size limit of one synthetic input."""

RUN_SECONDS = 60.0
"""Time limit of one run, in seconds: a model can contain an endless loop."""

_FLOATS = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2"}
_INTEGERS = {
    f"tensor({name}{n})": f"{name}{n}" for name in ("int", "uint") for n in (8, 16, 32, 64)
}

Inputs = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class OutputCheck:
    """Difference between the outputs of two models on one synthetic input.

    Attributes:
        max_difference: largest absolute difference; infinite if shapes differ or if only one of
            two values is NaN or infinite; None if the outputs could not be compared.
        magnitude: largest absolute finite output of the reference model; None if the outputs could
            not be compared.
        reason: why the outputs could not be compared; None if they were compared.
        tolerance: largest difference of equal outputs, relative to `magnitude`.
    """

    max_difference: float | None
    magnitude: float | None
    reason: str | None = None
    tolerance: float = TOLERANCE

    @property
    def equal(self) -> bool:
        """Whether the outputs agree within the tolerance."""
        if self.max_difference is None or self.magnitude is None:
            return False
        return self.max_difference <= self.tolerance * self.magnitude


def compare_outputs(
    reference: Path,
    other: Path,
    *,
    feed: Inputs | None = None,
    optimized: bool = True,
    tolerance: float = TOLERANCE,
) -> OutputCheck:
    """Run two models, one after the other, on the same synthetic inputs.

    Float inputs are normal noise from a fixed seed. Boolean inputs are true, integers are zero, and
    strings are empty. The batch size is 1. A run stops after `RUN_SECONDS`.

    Args:
        reference: the ONNX file to compare with.
        other: an ONNX file with the same inputs and outputs.
        feed: inputs for a model that does not run on synthetic ones.
        optimized: whether ONNX Runtime may optimize the models, as it does by default.
        tolerance: largest difference of equal outputs, relative to the largest reference value.

    Raises:
        QqonnxError: ONNX Runtime loads and runs `reference`, but not `other`; or the models have
            different numbers of outputs.
    """
    try:
        session = open_for_comparison(reference, optimized=optimized)
    except QqonnxError as error:
        return OutputCheck(None, None, str(error))
    try:
        inputs, expected = _first_run(session, feed)
    except Exception as error:
        open_for_comparison(other, optimized=optimized)
        reason = f"the model does not run on synthetic inputs: {first_line(error)}"
        return OutputCheck(None, None, reason)
    # Models may be large, so only one is kept in memory.
    del session
    session = open_for_comparison(other, optimized=optimized)
    try:
        actual = run_limited(session, inputs)
    except TimeoutError as error:
        return OutputCheck(None, None, str(error))
    except Exception as error:
        raise QqonnxError(f"{other}: does not run: {first_line(error)}") from error
    if len(actual) != len(expected):
        raise QqonnxError(f"{other}: has {len(actual)} outputs, {reference} has {len(expected)}")
    return replace(compare_arrays(expected, actual), tolerance=tolerance)


def open_for_comparison(path: Path, *, optimized: bool = True) -> ort.InferenceSession:
    """Load a model; random nodes draw the same numbers in every version of the model.

    Raises:
        QqonnxError: ONNX Runtime does not load the model.
    """
    try:
        model = with_seeds(path)
    except (OSError, ValueError, EncodeError, DecodeError):
        model = path
    return open_session(model, name=str(path), spinning=False, optimized=optimized)


def compare_arrays(expected: Sequence[Any], actual: Sequence[Any]) -> OutputCheck:
    """Compare two lists of outputs pairwise; outputs that are not numeric arrays are ignored."""
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
        return OutputCheck(None, None, "no output for the synthetic inputs is a finite number")
    return OutputCheck(difference, magnitude)


def run_synthetic(session: ort.InferenceSession) -> tuple[Inputs, list[Any]]:
    """Return synthetic inputs that the model accepts, and its outputs for them.

    If the model rejects small inputs, larger ones are tried.

    Raises:
        TimeoutError: a run took more than `RUN_SECONDS`.
        Exception: the model accepts no inputs; the error is that of the smallest ones.
    """
    errors = []
    # An inner axis may also be a batch axis, as in the state of a recurrent network.
    for inner, size in product((True, False), SYMBOLIC_SIZES):
        try:
            inputs = _synthetic_inputs(session, size, inner)
            return inputs, run_limited(session, inputs)
        except TimeoutError:  # noqa: PERF203 - a few sizes
            raise
        except Exception as error:
            errors.append(error)
    raise errors[0]


def _first_run(session: ort.InferenceSession, feed: Inputs | None) -> tuple[Inputs, list[Any]]:
    """Return the synthetic inputs, or `feed` if the model rejects them, and its outputs."""
    try:
        return run_synthetic(session)
    except TimeoutError:
        raise
    except Exception as error:
        if feed is None:
            raise
        try:
            return feed, run_limited(session, feed)
        except Exception:
            raise error from None


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


def _synthetic_inputs(session: ort.InferenceSession, symbolic: int, inner: bool) -> Inputs:
    """Return inputs by name.

    Args:
        session: the model's session.
        symbolic: size of symbolic axes; the first axis has size 1.
        inner: whether all axes but the first have size `symbolic`, or the last axis only.
    """
    random = np.random.default_rng(0)
    inputs = {}
    known_sizes: dict[str, int] = {}
    for entry in session.get_inputs():
        last = len(entry.shape) - 1
        shape = [
            _axis_size(size, known_sizes, symbolic if axis and (inner or axis == last) else 1)
            for axis, size in enumerate(entry.shape)
        ]
        if 8 * math.prod(shape) > MAX_INPUT_BYTES:
            raise QqonnxError(f"input {entry.name!r} is too large")
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


def _axis_size(declared: object, known_sizes: dict[str, int], default: int) -> int:
    if isinstance(declared, str):
        return known_sizes.setdefault(declared, default)
    return declared if isinstance(declared, int) and declared > 0 else default

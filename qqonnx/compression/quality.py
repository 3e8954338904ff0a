"""What the outputs of the original model became in the compressed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.errors import QqonnxError, first_line
from qqonnx.evaluation.quality import (
    MAX_RELATIVE_ERROR,
    MIN_AGREEMENT,
    OutputQuality,
    output_quality,
)
from qqonnx.model.compare import open_for_comparison, run_limited, run_synthetic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir

    from qqonnx.calibration.inputs import CalibrationInputs

    Feed = dict[str, np.ndarray[Any, Any]]

MAX_SAMPLES = 32
"""Number of calibration samples that outputs are compared on."""

SYNTHETIC_SAMPLES = 4
"""Number of synthetic samples that outputs are compared on without calibration."""


@dataclass(frozen=True)
class Uncompared:
    """An output that cannot be compared.

    Attributes:
        name: its name.
        reason: why not.
        is_defect: whether it could be compared if the compressed model computed what it should.
    """

    name: str
    reason: str
    is_defect: bool


@dataclass(frozen=True)
class Quality:
    """How the outputs of the compressed model compare with those of the original.

    Attributes:
        outputs: quality of each output that could be compared, the worst first.
        source: description of the inputs.
        reason: why no output could be compared; None if one was.
        uncompared: the outputs that could not be compared.
    """

    outputs: tuple[OutputQuality, ...]
    source: str
    reason: str | None = None
    uncompared: tuple[Uncompared, ...] = ()

    @property
    def poor(self) -> tuple[str, ...]:
        """Names of the outputs that lost more than `OutputQuality.is_poor` states, or all."""
        broken = [output.name for output in self.uncompared if output.is_defect]
        return (*broken, *(output.name for output in self.outputs if output.is_poor))


def quality_feeds(model: ir.Model, inputs: CalibrationInputs | None) -> tuple[list[Feed], str]:
    """Return the inputs of some runs, and what they are; none if none can be made.

    Args:
        model: the original model.
        inputs: calibration inputs, whose held-out part is taken; without them, the inputs are
            synthetic.
    """
    if inputs is None:
        try:
            inputs = calibration_inputs(model, None, SYNTHETIC_SAMPLES, hold_out=False)
        except QqonnxError:
            return [], "synthetic inputs"
        return list(inputs.batches())[: max(MAX_SAMPLES // inputs.batch_size, 1)], inputs.source
    fitted = {id(feed) for feed in inputs.feeds}
    held_out = all(id(feed) not in fitted for feed in inputs.held_out)
    source = f"held out of {inputs.source}" if held_out else inputs.source
    return list(inputs.held_out)[: max(MAX_SAMPLES // inputs.batch_size, 1)], source


def measure_quality(
    original: Path, compressed: Path, feeds: Sequence[Feed], source: str, *, optimized: bool
) -> Quality:
    """Compare the outputs of a model with those of the original; see `measure_qualities`."""
    (quality,) = measure_qualities(original, [compressed], feeds, source, optimized=optimized)
    return quality


def measure_qualities(
    original: Path,
    compressed: Sequence[Path],
    feeds: Sequence[Feed],
    source: str,
    *,
    optimized: bool,
) -> list[Quality]:
    """Run models, one after the other, and compare their outputs with those of the original.

    Args:
        original: the original model.
        compressed: the compressed models.
        feeds: inputs of some runs; without any, or where the original does not run on them, seeded
            noise is used.
        source: description of the inputs.
        optimized: whether ONNX Runtime may optimize the models.
    """
    try:
        session = open_for_comparison(original, optimized=optimized)
        names = [entry.name for entry in session.get_outputs()]
        references, feeds, source = _references(session, feeds, source)
    except Exception as error:  # ONNX Runtime's errors have no common class
        return [Quality((), source, first_line(error))] * len(compressed)
    # Only one of the models, which may be large, is in memory at a time.
    del session
    qualities = []
    for path in compressed:
        try:
            session = open_for_comparison(path, optimized=optimized)
            outputs = [run_limited(session, feed) for feed in feeds]
            del session
        except Exception as error:
            qualities.append(Quality((), source, first_line(error)))
            continue
        qualities.append(_quality(names, references, outputs, source))
    return qualities


def _quality(
    names: Sequence[str],
    references: Sequence[Sequence[Any]],
    outputs: Sequence[Sequence[Any]],
    source: str,
) -> Quality:
    compared, uncompared = [], []
    for name, exact, other in zip(
        names, zip(*references, strict=True), zip(*outputs, strict=True), strict=True
    ):
        obstacles = [_obstacle(name, *pair) for pair in zip(exact, other, strict=True)]
        found = next(filter(None, obstacles), None)
        if found is None:
            compared.append(output_quality(name, exact, other))
        else:
            uncompared.append(found)
    reason = None
    if not compared:
        listed = "; ".join(f"{output.name}: {output.reason}" for output in uncompared)
        reason = listed or "the model has no output"
    compared.sort(key=lambda quality: -_loss(quality))
    return Quality(tuple(compared), source, reason, tuple(uncompared))


def _references(
    session: Any, feeds: Sequence[Feed], source: str
) -> tuple[list[list[Any]], list[Feed], str]:
    try:
        if feeds:
            return [run_limited(session, feed) for feed in feeds], list(feeds), source
    except TimeoutError:
        raise
    except Exception:
        pass
    inputs, outputs = run_synthetic(session)
    return [outputs], [inputs], "seeded noise"


def _obstacle(name: str, exact: Any, other: Any) -> Uncompared | None:
    """Return why two outputs of a run cannot be compared; None if they can."""
    if not isinstance(exact, np.ndarray) or exact.dtype.kind not in "fiu":
        return Uncompared(name, "it is no tensor of numbers", False)
    if not exact.size:
        return Uncompared(name, "it is empty", False)
    if not np.isfinite(exact).all():
        return Uncompared(name, "it is not finite in the original model", False)
    if exact.shape != other.shape:
        return Uncompared(name, f"its shape changed from {exact.shape} to {other.shape}", True)
    if not np.isfinite(other).all():
        return Uncompared(name, "it is no longer finite", True)
    return None


def _loss(quality: OutputQuality) -> float:
    """Return how much an output lost, in multiples of what `is_poor` allows."""
    if quality.agreement is not None:
        return (1 - quality.agreement) / (1 - MIN_AGREEMENT) + 1e-3 * quality.relative_error
    return quality.worst_channel / MAX_RELATIVE_ERROR

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
class Quality:
    """How the outputs of the compressed model compare with those of the original.

    Attributes:
        outputs: quality of each output that is a tensor of numbers, the worst first.
        source: description of the inputs.
        reason: why the outputs could not be compared; None if they were.
    """

    outputs: tuple[OutputQuality, ...]
    source: str
    reason: str | None = None

    @property
    def poor(self) -> tuple[OutputQuality, ...]:
        """The outputs that lost more than `OutputQuality.is_poor` states."""
        return tuple(output for output in self.outputs if output.is_poor)


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
    compared = [
        output_quality(name, exact, other)
        for name, exact, other in zip(
            names, zip(*references, strict=True), zip(*outputs, strict=True), strict=True
        )
        if all(map(_is_comparable, exact, other))
    ]
    if not compared:
        return Quality((), source, "no output is a tensor of finite numbers")
    compared.sort(key=lambda quality: -_loss(quality))
    return Quality(tuple(compared), source)


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


def _is_comparable(exact: Any, other: Any) -> bool:
    return (
        isinstance(exact, np.ndarray)
        and isinstance(other, np.ndarray)
        and exact.dtype.kind in "fiu"
        and exact.shape == other.shape
        and exact.size > 0
        and bool(np.isfinite(exact).all() and np.isfinite(other).all())
    )


def _loss(quality: OutputQuality) -> float:
    """Return how much an output lost, in multiples of what `is_poor` allows."""
    if quality.agreement is not None:
        return (1 - quality.agreement) / (1 - MIN_AGREEMENT) + 1e-3 * quality.relative_error
    return quality.worst_channel / MAX_RELATIVE_ERROR

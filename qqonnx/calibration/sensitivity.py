"""Sensitivity of a model's outputs to the quantization of each weight."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.calibration.session import extended_session
from qqonnx.calibration.tail import affected_tail
from qqonnx.errors import OptionError, QqonnxError
from qqonnx.evaluation.divergence import output_divergence
from qqonnx.inputs.dataset import evenly_spaced
from qqonnx.inputs.masks import padding_mask, unpadded
from qqonnx.inputs.read import feed_samples
from qqonnx.model.session import run_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.model.select import Weight

    Feed = Mapping[str, NDArray[Any]]

SAMPLES = 8
"""Number of samples whose outputs show the sensitivity of a weight."""

SYNTHETIC_SAMPLES = 16
"""That number for synthetic samples: with 8, some weights get far too few levels by chance."""

UNRELATED = 0.5
"""Divergence of an output that has nothing to do with the reference, as that of its mean is."""


def judged_batches(inputs: CalibrationInputs) -> Sequence[Feed]:
    """Return batches of the second half of the samples, as `collect_moments` splits them.

    No weight that is fitted to the first half has seen them.
    """
    samples = SAMPLES if inputs.sample_weight == 1 else SYNTHETIC_SAMPLES
    return [inputs.feeds[index] for index in judged_indices(inputs, samples)]


def judged_indices(inputs: CalibrationInputs, samples: int) -> list[int]:
    """Return the indices of batches of the second half, of at most `samples` samples, or of one."""
    indices = list(range(len(inputs.feeds)))
    indices = indices[1::2] or indices
    # Runs that a caller gives may hold several samples.
    wanted = max(samples // feed_samples(inputs.feeds[0]), 1) if indices else 0
    if wanted < len(indices):
        indices = [indices[index] for index in evenly_spaced(len(indices), wanted)]
    return indices


@contextmanager
def output_losses(
    model: ir.Model,
    weights: Sequence[Weight],
    batches: Sequence[Feed],
    importance: Mapping[str, float],
) -> Iterator[Callable[[Mapping[str, NDArray[Any]]], float]]:
    """Provide a function from replaced weights, by name, to the loss of the outputs.

    The loss is the mean divergence of the outputs; see `output_divergence`.

    Args:
        model: the float model.
        weights: weights that can be replaced, by name: initializers of the main graph. They make
            runs slow, because ONNX Runtime prepares only constant weights.
        batches: inputs of the runs.
        importance: factors of the outputs' divergences, by name; 1 by default.

    Raises:
        OptionError: `importance` names no output of the model, or leaves all out.
        QqonnxError: no output of the model is a tensor, or the model does not load or run.
    """
    # Sequences and optional values are not compared.
    outputs = [value for value in model.graph.outputs if not _is_no_tensor(value)]
    if not outputs:
        raise QqonnxError("calibration: no output of the model is a tensor")
    factors = _factors([value.name or "" for value in outputs], importance)
    names = list(factors)
    tail = affected_tail(
        model, [model.graph.initializers[weight.name] for weight in weights], names, batches
    )
    replaceable = [tail.model.graph.initializers[weight.name] for weight in weights]
    masks = [padding_mask(batch) for batch in batches]
    with extended_session(tail.model, inputs=replaceable) as session:

        def run(number: int, replaced: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
            feed = {**tail.feeds[number], **replaced}
            outputs = run_session(session, feed, names, name="calibration: the model")
            return [unpadded(output, masks[number]) for output in outputs]

        references = [run(number, {}) for number in range(len(batches))]

        def loss(replaced: Mapping[str, NDArray[Any]]) -> float:
            total = count = 0.0
            for number, (batch, reference) in enumerate(zip(batches, references, strict=True)):
                outputs = run(number, replaced)
                size = feed_samples(batch)
                divergences = map(_divergence, reference, outputs, names)
                total += size * sum(
                    f * d for f, d in zip(factors.values(), divergences, strict=True)
                )
                count += size
            return total / count

        yield loss


def _is_no_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.SequenceType | ir.OptionalType)


def _factors(names: Sequence[str], importance: Mapping[str, float]) -> dict[str, float]:
    """Return the factor of each output that counts."""
    unknown = [name for name in importance if name not in names]
    if unknown:
        known = ", ".join(names)
        raise OptionError(
            "calibration.loss", f"no output is named {unknown[0]!r}; there are {known}"
        )
    factors = {name: importance.get(name, 1.0) for name in names}
    counting = {name: factor for name, factor in factors.items() if factor > 0}
    if not counting:
        raise OptionError("calibration.loss", "leaves out every output")
    return counting


def _divergence(reference: NDArray[Any], output: NDArray[Any], name: str) -> float:
    """Return the divergence of an output, where the reference is finite.

    Other shapes, such as another number of boxes or another length of a sound, cannot be compared:
    they count as `UNRELATED`.
    """
    if reference.shape != output.shape:
        return UNRELATED
    if reference.dtype.kind != "f":
        return 0.0
    finite = np.isfinite(reference)
    if not (finite.all() and np.isfinite(output).all()):
        reference = np.where(finite, reference, 0)
        output = np.where(finite & np.isfinite(output), output, 0)
    return output_divergence(reference, output, name)

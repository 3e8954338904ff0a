"""The weights of a model that is quantized already, as codebooks of integer levels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.encoding.encode import NODE_BYTES
from qqonnx.encoding.integers import encode_integers
from qqonnx.errors import OptionError
from qqonnx.model.select import Skipped
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.compression.choice import ChosenWeights
    from qqonnx.compression.job import Job
    from qqonnx.config import Calibration, WeightPlan
    from qqonnx.encoding.stored import CodebookWeight


def encode_quantized(job: Job, chosen: ChosenWeights) -> tuple[Job, ChosenWeights]:
    """Encode the integer weights; return the job with them, and what is left as it is.

    Without float weights, nothing is calibrated: biases stay as they are.

    Raises:
        OptionError: an option would be ignored, because the model has no float weight.
    """
    if not chosen.plans:
        _refuse_ignored(job)
        biases = [Skipped(b.name, b.shape, b.tensor.nbytes, "a bias") for b in chosen.biases]
        chosen = replace(chosen, biases=(), skipped=(*chosen.skipped, *biases))
    total = sum(plan.weight.tensor.size for plan in chosen.quantized)
    encoded = in_order(
        _encode, chosen.quantized, size=lambda p: p.weight.tensor.size, threads=job.threads
    )
    stored, left = [], []
    for weight in encoded:
        job.progress(weight.name, weight.bytes_before, total)
        if weight.payload_bytes + NODE_BYTES < weight.bytes_before:
            stored.append(weight)
        else:
            kind = weight.dtype.name.lower()
            reason = f"{kind} already, and no smaller with so many levels"
            left.append(Skipped(weight.name, weight.shape, weight.bytes_before, reason))
    job = replace(job, quantized=tuple(stored))
    return job, replace(chosen, integers=(*chosen.integers, *left))


def judging_inputs(model: ir.Model, request: Calibration) -> CalibrationInputs:
    """Return the inputs that outputs are compared on: all, as no weight is fitted to any."""
    inputs = calibration_inputs(model, request.data, request.samples, hold_out=False)
    return replace(inputs, held_out=inputs.feeds)


def _encode(plan: WeightPlan) -> CodebookWeight:
    weight = encode_integers(plan)
    tensor = plan.weight.tensor
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return weight


def _refuse_ignored(job: Job) -> None:
    """Refuse what integer weights do not take; they have one codebook each, and own scales."""
    reason = "the weights are integers already; they take bits or levels"
    request = job.calibration
    ignored = {
        "granularity": job.options.granularity == "channel",
        "operators": job.options.operators != "standard",
        "target": request is not None and request.target is not None,
        "calibration.plan": request is not None and request.plan is not None,
        "finetune": request is not None and request.finetune,
    }
    for name, given in ignored.items():
        if given:
            raise OptionError(name, f"would be ignored: {reason}")

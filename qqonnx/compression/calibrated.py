"""Compression with levels that are calibrated on inputs, and judged on others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from qqonnx.calibration.calibrate import calibrate
from qqonnx.calibration.context import Context
from qqonnx.calibration.inputs import NO_INPUTS, calibration_inputs
from qqonnx.compression.job import Made, made_of, store
from qqonnx.compression.judge import lost_output, plain_weights
from qqonnx.compression.quality import quality_feeds
from qqonnx.config import Calibration
from qqonnx.encoding.stored import FLOAT16
from qqonnx.encoding.verify import FOLDED_UP_TO
from qqonnx.errors import OptionError, QqonnxError
from qqonnx.model.save import written_bytes
from qqonnx.model.select import Skipped
from qqonnx.model.source import IN_MEMORY
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.compression.choice import ChosenWeights
    from qqonnx.compression.job import Job
    from qqonnx.compression.quality import Feed
    from qqonnx.encoding.stored import StoredWeight


def write_calibrated(job: Job, model: ir.Model, chosen: ChosenWeights, bytes_before: int) -> Made:
    """Write the model with calibrated levels, or plain ones of the same size if they lose less."""
    request = job.calibration or Calibration()
    inputs, stored, doubt = _calibrated(job, request, model, chosen, bytes_before)
    if request.finetune:
        from qqonnx.finetune.weights import finetune_weights

        stored = finetune_weights(model, stored, list(inputs.batches()), progress=job.progress)
    store(model.clone(), stored, job, job.written)
    feeds = quality_feeds(model, inputs)
    # A plan that is read is the user's own choice.
    if request.plan is None or request.target is not None:
        plain = plain_weights(chosen.plans, stored, job.threads)
        lost = _lost_output(job, model, plain, feeds[0], bytes_before)
        if lost is not None:
            doubt = f"k-means with scales: calibration lost more of the output {lost!r}"
            stored = plain
            store(model.clone(), stored, job, job.written)
    skipped = [*chosen.skipped, *_biases(chosen, stored), *chosen.integers]
    return made_of(feeds, bytes_before, stored, skipped, inputs, doubt)


def _calibrated(
    job: Job, request: Calibration, model: ir.Model, chosen: ChosenWeights, bytes_before: int
) -> tuple[CalibrationInputs, list[StoredWeight], str | None]:
    """Return the inputs, the stored weights, and why calibration did less than usual."""

    def on(inputs: CalibrationInputs) -> list[StoredWeight]:
        context = Context(
            model=model,
            plans=chosen.plans,
            biases=chosen.biases,
            inputs=inputs,
            bytes_before=bytes_before,
            plain_bytes=bytes_before - chosen.bytes_removed,
            threads=job.threads,
            importance=request.loss,
            progress=job.progress,
        )
        # Results of BLAS depend on its number of threads, and so would the file.
        with threadpool_limits(1, "blas"):
            return calibrate(
                context,
                request,
                lambda weights: store(model.clone(), weights, job, job.written),
            )

    try:
        inputs = calibration_inputs(model, request.data, request.samples)
        return inputs, on(inputs), None
    except QqonnxError as error:
        drops = request.target is not None and request.target.max_drop is not None
        needs_runs = request.data is not None or request.finetune or drops
        if needs_runs or isinstance(error, OptionError):
            raise
        doubt = f"levels were chosen from the weights alone: {error}"
        return NO_INPUTS, on(NO_INPUTS), doubt


def _lost_output(
    job: Job,
    model: ir.Model,
    plain: Sequence[StoredWeight],
    feeds: Sequence[Feed],
    bytes_before: int,
) -> str | None:
    """Return an output that the written file lost more of than the plain file of its size."""
    with temporary_folder() as folder:
        path = folder / IN_MEMORY
        if store(model.clone(), plain, job, path) > written_bytes(job.written):
            return None
        optimized = bytes_before <= FOLDED_UP_TO
        return lost_output(job.source, job.written, path, feeds, optimized=optimized)


def _biases(chosen: ChosenWeights, stored: Sequence[StoredWeight]) -> list[Skipped]:
    """Return the biases, which are stored as float16 where that saves bytes."""
    rounded = {weight.name for weight in stored if weight.method == FLOAT16}
    found = []
    for bias in chosen.biases:
        reason = "a bias, stored as float16" if bias.name in rounded else "a bias"
        nbytes = bias.tensor.size * 2 if bias.name in rounded else bias.tensor.nbytes
        found.append(Skipped(bias.name, bias.shape, nbytes, reason))
    return found

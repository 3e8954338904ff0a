"""Compression with levels that are calibrated on inputs, and judged on others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from qqonnx.calibration.calibrate import Calibrated, calibrate
from qqonnx.calibration.context import Context
from qqonnx.calibration.estimate import FEWEST_RUNS, estimate
from qqonnx.calibration.inputs import NO_INPUTS, calibration_inputs
from qqonnx.calibration.plain import plain_weights
from qqonnx.compression.job import Made, made_of, store
from qqonnx.compression.judge import lost_output
from qqonnx.compression.quality import measure_qualities, quality_feeds
from qqonnx.config import Calibration
from qqonnx.encoding.stack import FEWEST, LARGEST
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
    from qqonnx.compression.quality import Feed, Quality
    from qqonnx.config import WeightPlan
    from qqonnx.encoding.stored import StoredWeight

_VERY_MANY = 256

_SAME_SIZE = 1.02
"""Ratio of sizes up to which files count as equally large."""

_ATTEMPTS = 4
"""Numbers of levels to try until the plain file is no larger than that."""


def write_calibrated(
    job: Job,
    model: ir.Model,
    chosen: ChosenWeights,
    bytes_before: int,
    given: CalibrationInputs | None = None,
) -> Made:
    """Write the model with calibrated levels, or plain ones of the same size if they lose less.

    `given` are calibration inputs; without them, they are read for the model.
    """
    request = job.calibration or Calibration()
    context, calibrated, doubt = _calibrated(job, request, model, chosen, bytes_before, given)
    inputs, stored = context.inputs, calibrated.stored
    if request.finetune:
        from qqonnx.finetune.weights import finetune_weights

        stored = finetune_weights(model, stored, list(inputs.batches()), progress=job.progress)
    store(model.clone(), stored, job, job.written)
    feeds = quality_feeds(model, inputs) if job.verify_outputs else ([], "")
    quality = None
    # A plan that is read is the user's own choice, and a largest drop has been judged.
    planned = request.plan is not None and request.target is None
    if job.verify_outputs and not (planned or request.has_max_drop):
        judged = _judged(job, context, calibrated, stored, feeds)
        if judged is not None:
            quality = judged.quality
            if judged.lost is not None:
                stored = judged.stored
                doubt = f"k-means with scales: calibration lost more of the output {judged.lost!r}"
                store(model.clone(), stored, job, job.written)
    skipped = [*chosen.skipped, *_biases(chosen, stored), *chosen.integers]
    made = made_of(feeds, bytes_before, stored, skipped, inputs, doubt, calibrated.drop)
    return replace(made, quality=quality)


def _calibrated(
    job: Job,
    request: Calibration,
    model: ir.Model,
    chosen: ChosenWeights,
    bytes_before: int,
    given: CalibrationInputs | None,
) -> tuple[Context, Calibrated, str | None]:
    """Return the model with its inputs, the weights, and why calibration did less than usual."""
    context = Context(
        model=model,
        plans=chosen.plans if request.target is not None else _alike(chosen.plans),
        biases=chosen.biases,
        inputs=NO_INPUTS,
        bytes_before=bytes_before,
        plain_bytes=bytes_before - chosen.bytes_removed,
        threads=job.threads,
        importance=request.loss,
        progress=job.progress,
    )

    def calibrated(context: Context) -> Calibrated:
        # Results of BLAS depend on its number of threads, and so would the file.
        with threadpool_limits(1, "blas"):
            return calibrate(
                context, request, lambda weights: store(model.clone(), weights, job, job.written)
            )

    needs_runs = request.data is not None or request.finetune or request.has_max_drop
    if not (job.verify_outputs or needs_runs):
        return context, calibrated(context), "levels were chosen from the weights alone, as asked"
    try:
        # A largest drop is judged on half of the samples anyway.
        inputs = given or calibration_inputs(
            model, request.data, request.samples, hold_out=not request.has_max_drop
        )
        context, doubt = _in_time(replace(context, inputs=inputs), request)
        return context, calibrated(context), doubt
    except QqonnxError as error:
        if needs_runs or isinstance(error, OptionError):
            raise
        doubt = f"levels were chosen from the weights alone: {error}"
        context = replace(context, inputs=NO_INPUTS)
        return context, calibrated(context), doubt


def _in_time(context: Context, request: Calibration) -> tuple[Context, str | None]:
    """Return the model with as many inputs as the time limit allows, and what was left out."""
    with threadpool_limits(1, "blas"):
        expected = estimate(context)
    runs = len(context.inputs.feeds)
    context.progress(f"calibration, about {expected.seconds(runs):.0f} s", 0, 1)
    limit = request.time_limit
    if limit is None or expected.seconds(runs) <= limit:
        return context, None
    fewer = min(expected.runs_within(limit), runs)
    needs_runs = request.has_max_drop or request.finetune
    if needs_runs:
        fewer = max(fewer, min(FEWEST_RUNS, runs))
    doubt = f"calibrated with {fewer} of {runs} runs, to take at most {limit:g} s"
    if fewer < FEWEST_RUNS and not needs_runs:
        fewer = 0
        doubt = f"levels were chosen from the weights alone: calibration takes over {limit:g} s"
    feeds, others = context.inputs.feeds[:fewer], context.inputs.others[:fewer]
    return replace(context, inputs=replace(context.inputs, feeds=feeds, others=others)), doubt


def _alike(plans: Sequence[WeightPlan]) -> list[WeightPlan]:
    """Fix the levels of many small weights of one shape: with equal levels they form a stack.

    The inputs of very many are not observed: calibration would take minutes for few bytes.
    """
    small = Counter(p.weight.shape for p in plans if prod(p.weight.shape) <= LARGEST)
    return [
        replace(plan, fixed=True, observed=small[plan.weight.shape] < _VERY_MANY)
        if small[plan.weight.shape] >= FEWEST
        else plan
        for plan in plans
    ]


@dataclass(frozen=True)
class _Judged:
    """The weights that lose less: the calibrated ones, or plain ones that lost less of `lost`."""

    stored: list[StoredWeight]
    quality: Quality
    lost: str | None


def _judged(
    job: Job,
    context: Context,
    calibrated: Calibrated,
    stored: list[StoredWeight],
    feeds: tuple[Sequence[Feed], str],
) -> _Judged | None:
    """Judge the written file against the plain one of its size; None if there is none."""
    optimized = context.bytes_before <= FOLDED_UP_TO
    limit = calibrated.limit or int(_SAME_SIZE * written_bytes(job.written))
    slack = 1 if calibrated.limit else _SAME_SIZE
    budget = slack * sum(w.payload_bytes for w in stored if w.method != FLOAT16)
    with temporary_folder() as folder:
        path = folder / IN_MEMORY
        for plain in islice(plain_weights(context, stored, budget), _ATTEMPTS):
            if store(context.model.clone(), plain, job, path) <= limit:
                ours, theirs = measure_qualities(
                    job.source, [job.written, path], *feeds, optimized=optimized
                )
                lost = lost_output(ours, theirs, context.importance)
                return _Judged(stored, ours, None) if lost is None else _Judged(plain, theirs, lost)
    return None


def _biases(chosen: ChosenWeights, stored: Sequence[StoredWeight]) -> list[Skipped]:
    """Return the biases, which are stored as float16 where that saves bytes."""
    rounded = {weight.name for weight in stored if weight.method == FLOAT16}
    found = []
    for bias in chosen.biases:
        reason = "a bias, stored as float16" if bias.name in rounded else "a bias"
        nbytes = bias.tensor.size * 2 if bias.name in rounded else bias.tensor.nbytes
        found.append(Skipped(bias.name, bias.shape, nbytes, reason))
    return found

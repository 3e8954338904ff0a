"""The whole way of one model: load, select, plan, calibrate, encode, rewrite, verify, save."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from qqonnx.compression.choice import choose_weights, nothing_to_compress
from qqonnx.compression.quality import Quality, measure_quality, quality_feeds
from qqonnx.compression.results import CompressReport, WeightReport, weight_report
from qqonnx.config import Options, WeightPlan, bits_of, check_options
from qqonnx.encoding import matmulnbits
from qqonnx.encoding.encode import NODE_BYTES, encode
from qqonnx.encoding.record import is_compressed
from qqonnx.encoding.rewrite import rewrite
from qqonnx.encoding.stored import FLOAT16, BlockWeight, StoredWeight
from qqonnx.encoding.verify import FOLDED_UP_TO, NOT_ASKED, verify_file
from qqonnx.errors import NothingToCompressError
from qqonnx.model.load import file_bytes, load
from qqonnx.model.runtimes import fit_runtime
from qqonnx.model.save import refuse_overwriting, staged, write, written_bytes
from qqonnx.model.select import Skipped
from qqonnx.model.session import custom_operators
from qqonnx.model.source import IN_MEMORY, ModelSource, model_file
from qqonnx.parallel import available_cores, in_order
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from qqonnx.calibration.drop import Drop
    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.compression.choice import ChosenWeights
    from qqonnx.compression.quality import Feed
    from qqonnx.config import Calibration, Progress


def compress(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    options: Options | None = None,
    *,
    calibration: Calibration | None = None,
    external_data: bool = False,
    runtime_min: str | None = None,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
    verify_outputs: bool = True,
    threads: int | None = None,
    progress: Progress = lambda *_: None,
) -> CompressReport:
    """Compress an ONNX model.

    Args:
        model: the path of an ONNX file, or a model in memory, which stays as it is.
        output: the file to write, which appears only when it has been verified; without one, the
            report holds the compressed model.
        options: how weights are compressed; by default `Options()`.
        calibration: how levels are calibrated on activations, and a target to meet.
        external_data: put tensors into a second file, `output` with ".data" appended.
        runtime_min: an ONNX Runtime release, such as "1.15", that must read the file.
        custom_ops: libraries of custom operators, registered in every session of ONNX Runtime.
        verify_outputs: whether models are run to compare their outputs. The weights are verified
            bit for bit in any case.
        threads: number of weights worked on at once; by default the number of cores. The file is
            the same for any number.
        progress: function called with the name of a weight or of a step, an amount (such as the
            weight's elements), and the total.

    Returns:
        What was compressed, what was not and why, what the outputs lost, and the check of the file.

    Raises:
        OptionError: an option is out of range, or would be ignored.
        QqonnxError: the model cannot be read or holds no weight to compress; the target cannot be
            met; the output cannot be written or verified; or
            `runtime_min` does not read such a model.
    """
    options = options or Options()
    check_options(options, calibration)
    with custom_operators(custom_ops), model_file(model) as source, _output(output) as written:
        job = _Job(
            source,
            written,
            Path(output) if output is not None else None,
            options,
            calibration,
            external_data,
            runtime_min,
            verify_outputs,
            threads or available_cores(),
            progress,
        )
        made = _write_compressed(job)
        outputs = verify_file(written, made.digests, run=verify_outputs)
        quality = Quality((), "", NOT_ASKED)
        if verify_outputs:
            optimized = made.bytes_before <= FOLDED_UP_TO
            quality = measure_quality(source, written, *made.feeds, optimized=optimized)
        return CompressReport(
            path=job.output,
            bytes_before=made.bytes_before,
            bytes_after=written_bytes(written),
            weights=made.weights,
            skipped=made.skipped,
            outputs=outputs,
            quality=quality,
            calibration=made.calibration,
            unreadable=made.unreadable,
            drop=made.drop,
            model=onnx.load(written) if output is None else None,
        )


@contextmanager
def _output(output: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Give the path to write to: of a staged file, or of a temporary one without an output."""
    if output is not None:
        with staged(Path(output)) as written:
            yield written
    else:
        with temporary_folder() as folder:
            yield folder / IN_MEMORY


@dataclass(frozen=True)
class _Job:
    source: Path
    written: Path
    output: Path | None
    options: Options
    calibration: Calibration | None
    external_data: bool
    runtime_min: str | None
    verify_outputs: bool
    threads: int
    progress: Progress


@dataclass(frozen=True)
class _Made:
    """What was written, without the arrays: they are let go before the file is verified."""

    bytes_before: int
    weights: tuple[WeightReport, ...]
    skipped: tuple[Skipped, ...]
    digests: dict[str, bytes]
    feeds: tuple[list[Feed], str]
    calibration: str | None = None
    unreadable: tuple[str, ...] = ()
    drop: Drop | None = None


def _write_compressed(job: _Job) -> _Made:
    model = load(job.source)
    if is_compressed(model):
        raise NothingToCompressError(
            f"{job.source}: compressed already; `qqonnx restore` undoes it"
        )
    if job.output is not None:
        refuse_overwriting(model, job.source, job.output)
    if job.runtime_min is not None:
        fit_runtime(model, job.runtime_min)
    bytes_before = file_bytes(model, job.source)
    calibrated = job.calibration is not None
    chosen = choose_weights(model, job.options, calibrated=calibrated)
    if not chosen.plans:
        raise nothing_to_compress(job.source, chosen, chosen.skipped)
    return (_calibrated if calibrated else _encoded)(job, model, chosen, bytes_before)


def _encoded(
    job: _Job,
    model: ir.Model,
    chosen: ChosenWeights,
    bytes_before: int,
) -> _Made:
    """Write the model with each weight encoded as planned."""
    assert not chosen.biases
    plans, skipped = chosen.plans, list(chosen.skipped)
    # The model has plain weights here.
    feeds = quality_feeds(model, None) if job.verify_outputs else ([], "")
    # Work on arrays of a channel's size is Python's more than numpy's: threads would only wait.
    threads = 1 if job.options.granularity == "channel" else job.threads
    total = sum(plan.weight.tensor.size for plan in plans)
    results = in_order(
        lambda plan: _encode(plan, job.options),
        plans,
        size=lambda plan: plan.weight.tensor.size,
        threads=threads,
    )
    stored: list[StoredWeight] = []
    for plan, weight in zip(plans, results, strict=True):
        job.progress(weight.name, plan.weight.tensor.size, total)
        smaller = weight.payload_bytes + NODE_BYTES < weight.float_bytes
        if smaller or isinstance(weight, BlockWeight):
            stored.append(weight)
        else:
            reason = "compressed it would be no smaller"
            skipped.append(Skipped(weight.name, weight.shape, weight.float_bytes, reason))
    if not stored:
        raise nothing_to_compress(job.source, chosen, skipped)
    stored.sort(key=lambda weight: isinstance(weight, BlockWeight))
    _store(model, stored, job)
    return _made(feeds, bytes_before, stored, [*skipped, *chosen.integers])


def _encode(plan: WeightPlan, options: Options) -> StoredWeight:
    tensor = plan.weight.tensor
    if options.operators == "matmulnbits" and matmulnbits.fits(plan.weight):
        return matmulnbits.encode_blocks(plan.weight, bits_of(plan.weight, options))
    weight = encode(plan)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return weight


def _calibrated(
    job: _Job,
    model: ir.Model,
    chosen: ChosenWeights,
    bytes_before: int,
) -> _Made:
    """Write the model with levels that are calibrated on activations."""
    from qqonnx.calibration.calibrate import calibrate
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.inputs import calibration_inputs

    assert job.calibration is not None
    plans, biases, skipped = chosen.plans, chosen.biases, list(chosen.skipped)

    def store(weights: Sequence[StoredWeight]) -> int:
        return _store(model.clone(), weights, job)

    inputs = calibration_inputs(model, job.calibration.data, job.calibration.samples)
    plain_bytes = bytes_before - chosen.bytes_removed
    context = Context(
        model=model,
        plans=plans,
        biases=biases,
        inputs=inputs,
        bytes_before=bytes_before,
        plain_bytes=plain_bytes,
        threads=job.threads,
        importance=job.calibration.loss,
        progress=job.progress,
    )
    # Results of BLAS depend on its number of threads, and so would the file.
    with threadpool_limits(1, "blas"):
        calibrated = calibrate(context, job.calibration, store)
    stored = calibrated.stored
    if job.calibration.finetune:
        from qqonnx.finetune.weights import finetune_weights

        stored = finetune_weights(model, stored, list(inputs.batches()), progress=job.progress)
    store(stored)
    rounded = {weight.name for weight in stored if weight.method == FLOAT16}
    for bias in biases:
        reason = "a bias, stored as float16" if bias.name in rounded else "a bias"
        nbytes = bias.tensor.size * 2 if bias.name in rounded else bias.tensor.nbytes
        skipped.append(Skipped(bias.name, bias.shape, nbytes, reason))
    skipped += chosen.integers
    feeds = quality_feeds(model, inputs)
    return _made(feeds, bytes_before, stored, skipped, inputs, calibrated.drop)


def _store(model: ir.Model, weights: Sequence[StoredWeight], job: _Job) -> int:
    """Write the model with its weights in their stored form; return the bytes of the file."""
    rewrite(model, weights)
    write(model, job.written, external_data=job.external_data)
    return written_bytes(job.written)


def _made(
    feeds: tuple[list[Feed], str],
    bytes_before: int,
    stored: Sequence[StoredWeight],
    skipped: Sequence[Skipped],
    inputs: CalibrationInputs | None = None,
    drop: Drop | None = None,
) -> _Made:
    return _Made(
        bytes_before=bytes_before,
        weights=tuple(weight_report(weight) for weight in stored if weight.method != FLOAT16),
        skipped=tuple(skipped),
        digests={weight.name: weight.digest() for weight in stored},
        feeds=feeds,
        calibration=inputs.source if inputs is not None else None,
        unreadable=inputs.unreadable if inputs is not None else (),
        drop=drop,
    )

"""The whole way of one model: load, select, plan, calibrate, encode, rewrite, verify, save."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from qqonnx.compression.choice import choose_weights, nothing_to_compress
from qqonnx.compression.integers import round_activations
from qqonnx.compression.job import Job, Made
from qqonnx.compression.plain import write_plain
from qqonnx.compression.quality import Quality, measure_quality
from qqonnx.compression.quantized import encode_quantized, judging_inputs
from qqonnx.compression.requantized import requantized
from qqonnx.compression.results import CompressReport, weight_report
from qqonnx.config import Options, check_options, is_automatic
from qqonnx.encoding.record import is_compressed
from qqonnx.encoding.verify import FOLDED_UP_TO, NOT_ASKED, verify_file
from qqonnx.errors import NothingToCompressError
from qqonnx.model.load import file_bytes, load
from qqonnx.model.runtimes import fit_runtime
from qqonnx.model.save import refuse_overwriting, staged, written_bytes
from qqonnx.model.session import custom_operators
from qqonnx.model.source import IN_MEMORY, ModelSource, model_file
from qqonnx.parallel import available_cores
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.compression.choice import ChosenWeights
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
        job = Job(
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
        feed = next(iter(made.feeds[0]), None)
        outputs = verify_file(written, made.digests, run=verify_outputs, feed=feed)
        quality = made.quality
        if not verify_outputs:
            quality = Quality((), "", NOT_ASKED)
        elif quality is None:
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
            doubt=made.doubt,
            drop=made.drop,
            quantized=made.quantized,
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


def _write_compressed(job: Job) -> Made:
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
    calibrated = job.calibration is not None or is_automatic(job.options)
    inputs, integers = None, None
    if job.options.compute != "float":
        model, inputs = round_activations(model, job.options, job.calibration)
        if job.runtime_min is not None:
            fit_runtime(model, job.runtime_min)
    elif calibrated:
        integers = requantized(model, job)
    if integers is not None:
        model, inputs = integers.model, integers.inputs
        job = replace(job, options=integers.options)
    # Between integers, biases become int32.
    float_biases = calibrated and job.options.compute == "float"
    chosen = choose_weights(model, job.options, calibrated=float_biases)
    if integers is not None:
        chosen = replace(chosen, bytes_removed=chosen.bytes_removed - integers.bytes_added)
    if chosen.quantized:
        job, chosen = encode_quantized(job, chosen)
    if not chosen.plans and not job.quantized:
        raise nothing_to_compress(job.source, chosen, chosen.skipped)
    made = _written(job, model, chosen, bytes_before, inputs, calibrated=calibrated)
    before = integers.bytes if integers is not None else {}
    weights = [replace(w, bytes_before=before.get(w.name, w.bytes_before)) for w in made.weights]
    return replace(
        made,
        weights=(*map(weight_report, job.quantized), *weights),
        digests={w.name: w.digest() for w in job.quantized} | made.digests,
        quantized=len(job.quantized) + sum(weight.name in before for weight in weights),
    )


def _written(
    job: Job,
    model: ir.Model,
    chosen: ChosenWeights,
    bytes_before: int,
    inputs: CalibrationInputs | None,
    *,
    calibrated: bool,
) -> Made:
    if calibrated and chosen.plans:
        # The steps of calibration load only for those who calibrate.
        from qqonnx.compression.calibrated import write_calibrated

        return write_calibrated(job, model, chosen, bytes_before, inputs)
    if job.calibration is not None and inputs is None:
        inputs = judging_inputs(model, job.calibration)
    return write_plain(job, model, chosen, bytes_before, inputs)

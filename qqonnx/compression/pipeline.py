"""The whole way of one model: load, select, plan, quantize, rewrite, verify, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.codebooks import distortion
from qqonnx.compression.results import CompressReport, WeightReport, weight_report
from qqonnx.config import Options, WeightPlan, bits_of, plan
from qqonnx.encoding import matmulnbits
from qqonnx.encoding.encode import NODE_BYTES, QuantizedWeight, RoundedWeight, quantize
from qqonnx.encoding.restore import restore_weights
from qqonnx.encoding.rewrite import METADATA_KEY, rewrite
from qqonnx.encoding.verify import verify
from qqonnx.errors import QqonnxError
from qqonnx.model.load import file_bytes, load, read
from qqonnx.model.runtimes import fit_runtime
from qqonnx.model.save import refuse_overwriting, save, staged, write, written_bytes
from qqonnx.model.select import Skipped, select
from qqonnx.parallel import available_cores, in_order

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qqonnx.config import Calibration
    from qqonnx.encoding.matmulnbits import BlockedWeight
    from qqonnx.model.select import Weight


def compress(
    model: Path,
    output: Path,
    options: Options | None = None,
    *,
    calibration: Calibration | None = None,
    external_data: bool = False,
    runtime_min: str | None = None,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> CompressReport:
    """Compress an ONNX file.

    Args:
        model: the ONNX file to read.
        output: the file to write; appears only when it has been verified.
        options: how; the defaults are those of `Options`.
        calibration: how to choose levels by what they do to activations, within a target; of
            the options' method and granularity nothing counts then.
        external_data: put tensors into a second file, `output` with ".data" appended.
        runtime_min: an ONNX Runtime release, such as "1.15", that must read the file.
        threads: weights worked on at once; by default as many as there are cores. The file is
            the same.
        progress: called with a weight's name or what is being done, an amount, such as the
            weight's elements, and the total.

    Returns:
        What was compressed, what was not and why, and the check of the written file's outputs.

    Raises:
        QqonnxError: the model cannot be read, holds no weight to compress or a weight that is
            not finite, the options do not fit, the output cannot be written or verified, or
            `runtime_min` does not read such a model.
    """
    options = options or Options()
    threads = threads or available_cores()

    def opened() -> ir.Model:
        graph = load(model)
        if METADATA_KEY in graph.metadata_props:
            raise QqonnxError(f"{model}: compressed already; `qqonnx restore` undoes it")
        refuse_overwriting(graph, model, output)
        if runtime_min is not None:
            fit_runtime(graph, runtime_min)
        return graph

    with staged(output) as written:
        if calibration is None:
            result = _compress(opened, model, written, options, external_data, threads, progress)
        elif options.operators != "standard":
            raise QqonnxError(
                f"--operators {options.operators} takes neither calibration nor a budget"
            )
        else:
            from threadpoolctl import threadpool_limits

            # Results of BLAS depend on the number of its threads.
            with threadpool_limits(1, "blas"):
                result = _calibrate(
                    opened, model, written, options, calibration, external_data, threads, progress
                )
        outputs = verify(written, result.digests)
        bytes_after = written_bytes(written)
    return CompressReport(
        path=output,
        bytes_before=result.bytes_before,
        bytes_after=bytes_after,
        weights=result.weights,
        skipped=result.skipped,
        outputs=outputs,
        calibration=result.calibration,
        unreadable=result.unreadable,
    )


@dataclass(frozen=True)
class _Compressed:
    bytes_before: int
    weights: tuple[WeightReport, ...]
    skipped: tuple[Skipped, ...]
    digests: dict[str, bytes]
    calibration: str | None = None
    unreadable: tuple[str, ...] = ()


def _compress(
    opened: Callable[[], ir.Model],
    model: Path,
    output: Path,
    options: Options,
    external_data: bool,
    threads: int,
    progress: Callable[[str, int, int], None],
) -> _Compressed:
    """Write the compressed file; what was read is let go before the file is verified."""
    graph = opened()
    bytes_before = file_bytes(graph, model)
    selected, skipped = select(graph, include_bias=options.include_bias)
    plans, left_out = plan(selected, options)
    total = sum(entry.weight.tensor.size for entry in plans)
    quantized = []
    blocked: list[tuple[Weight, BlockedWeight]] = []

    def stored(entry: WeightPlan) -> QuantizedWeight | BlockedWeight:
        tensor = entry.weight.tensor
        if options.operators == "matmulnbits" and matmulnbits.fits(entry.weight):
            return matmulnbits.block(entry.weight, bits_of(entry.weight, options))
        result = quantize(entry)
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        return result

    if options.granularity == "channel":
        # Work on arrays of a channel's size is Python's more than numpy's: threads would only wait.
        threads = 1
    results = in_order(stored, plans, size=lambda entry: entry.weight.tensor.size, threads=threads)
    for entry, result in zip(plans, results, strict=True):
        weight, nbytes = entry.weight, entry.weight.tensor.nbytes
        progress(weight.name, weight.tensor.size, total)
        if not isinstance(result, QuantizedWeight):
            blocked.append((weight, result))
        elif result.payload_bytes + NODE_BYTES < nbytes:
            quantized.append(result)
        else:
            reason = "compressed it would be no smaller"
            left_out.append(Skipped(weight.name, result.shape, nbytes, reason))
    if not quantized and not blocked:
        raise QqonnxError(f"{model}: holds no weight to compress ({_reasons(skipped + left_out)})")
    reports = tuple(map(_report, quantized)) + tuple(_block_report(*pair) for pair in blocked)
    rewrite(graph, quantized)
    matmulnbits.rewrite(graph, blocked)
    write(graph, output, external_data=external_data)
    digests = {weight.plan.weight.name: weight.digest for weight in quantized}
    digests |= {weight.name: weight.digest() for _, weight in blocked}
    return _Compressed(bytes_before, reports, (*skipped, *left_out), digests)


def _calibrate(
    opened: Callable[[], ir.Model],
    model: Path,
    output: Path,
    options: Options,
    calibration: Calibration,
    external_data: bool,
    threads: int,
    progress: Callable[[str, int, int], None],
) -> _Compressed:
    """Write files until one meets the target."""
    from qqonnx.calibration.attempts import attempts, rebound

    graph = opened()
    bytes_before = file_bytes(graph, model)
    selected, skipped = select(graph, include_bias=True)
    biases = [weight for weight in selected if weight.is_bias and not options.include_bias]
    plans, left_out = plan([weight for weight in selected if weight not in biases], options)
    if not plans:
        raise QqonnxError(f"{model}: holds no weight to compress ({_reasons(skipped + left_out)})")
    tries = attempts(graph, plans, biases, calibration, bytes_before, threads, progress)
    attempt = next(tries)
    while True:
        # Each attempt is written into a model of its own, as writing changes it.
        fresh = opened()
        names = {weight.name: weight for weight in select(fresh, include_bias=True)[0]}
        rewrite(fresh, rebound(attempt.weights, names))
        write(fresh, output, external_data=external_data)
        try:
            attempt = tries.send(written_bytes(output))
        except StopIteration:
            break
    rounded = {w.plan.weight.name for w in attempt.weights if isinstance(w, RoundedWeight)}
    for weight in biases:
        stored = "a bias, stored as float16" if weight.name in rounded else "a bias"
        nbytes = weight.tensor.size * 2 if weight.name in rounded else weight.tensor.nbytes
        left_out.append(Skipped(weight.name, weight.shape, nbytes, stored))
    quantized = [weight for weight in attempt.weights if isinstance(weight, QuantizedWeight)]
    return _Compressed(
        bytes_before,
        tuple(map(_report, quantized)),
        (*skipped, *left_out),
        {weight.plan.weight.name: weight.digest for weight in attempt.weights},
        attempt.source,
        attempt.unreadable,
    )


def restore(model: Path, output: Path, *, external_data: bool = False) -> int:
    """Write a compressed model with plain float weights again.

    Args:
        model: a file that `compress` wrote.
        output: the file to write.
        external_data: put tensors into a second file, `output` with ".data" appended.

    Returns:
        How many weights are floats again.

    Raises:
        QqonnxError: the model cannot be read, was not compressed by qqonnx, or the output
            cannot be written.
    """
    graph = read(model)
    try:
        count = restore_weights(graph)
    except QqonnxError as error:
        raise QqonnxError(f"{model}: {error}") from error
    refuse_overwriting(graph, model, output)
    save(graph, output, external_data=external_data)
    return count


def _report(weight: QuantizedWeight) -> WeightReport:
    return weight_report(
        weight.plan.weight.name,
        weight.shape,
        method=weight.plan.method,
        granularity=weight.plan.granularity,
        levels=weight.codebook.shape[-1],
        counts=weight.counts,
        bits=weight.storage.bits_per_weight,
        error=weight.error,
        bytes_before=weight.plan.weight.tensor.nbytes,
        bytes_after=weight.payload_bytes,
    )


def _block_report(weight: Weight, blocked: BlockedWeight) -> WeightReport:
    return weight_report(
        weight.name,
        weight.shape,
        method="uq",
        granularity=matmulnbits.GRANULARITY,
        levels=2**blocked.bits,
        counts=blocked.counts,
        bits=blocked.bits,
        error=distortion(matmulnbits.inner_by_outer(weight), blocked.decoded()),
        bytes_before=weight.tensor.nbytes,
        bytes_after=blocked.payload_bytes,
    )


def _reasons(skipped: list[Skipped]) -> str:
    reasons = sorted({entry.reason for entry in skipped})
    return "; ".join(reasons) if reasons else "no float initializer"

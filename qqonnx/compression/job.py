"""One compression: what was asked for, what was written, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.compression.integers import put_integer_weights
from qqonnx.compression.results import weight_report
from qqonnx.encoding.rewrite import rewrite
from qqonnx.encoding.stored import FLOAT16
from qqonnx.model.save import write, written_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir

    from qqonnx.calibration.drop import Drop
    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.compression.quality import Feed, Quality
    from qqonnx.compression.results import WeightReport
    from qqonnx.config import Calibration, Options, Progress
    from qqonnx.encoding.stored import StoredWeight
    from qqonnx.model.select import Skipped


@dataclass(frozen=True)
class Job:
    """One compression; see `qqonnx.compression.pipeline.compress`.

    Attributes:
        written: the file to write first; `output` is the name that it gets in the end.
        quantized: stored weights of a model that is quantized already; every file has them.
    """

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
    quantized: tuple[StoredWeight, ...] = ()


@dataclass(frozen=True)
class Made:
    """What was written, without the arrays: they are let go before the file is verified.

    Attributes:
        quality: what the outputs lost on the inputs of `feeds`; None if it was not measured.
        quantized: number of the weights that were integers before.
    """

    bytes_before: int
    weights: tuple[WeightReport, ...]
    skipped: tuple[Skipped, ...]
    digests: dict[str, bytes]
    feeds: tuple[list[Feed], str]
    calibration: str | None = None
    unreadable: tuple[str, ...] = ()
    doubt: str | None = None
    drop: Drop | None = None
    quality: Quality | None = None
    quantized: int = 0


def store(model: ir.Model, weights: Sequence[StoredWeight], job: Job, path: Path) -> int:
    """Write the model with its weights in their stored form; return the bytes of the file."""
    if job.options.compute != "float":
        put_integer_weights(model, weights, job.options)
    rewrite(model, [*job.quantized, *weights])
    write(model, path, external_data=job.external_data)
    return written_bytes(path)


def made_of(
    feeds: tuple[list[Feed], str],
    bytes_before: int,
    stored: Sequence[StoredWeight],
    skipped: Sequence[Skipped],
    inputs: CalibrationInputs | None = None,
    doubt: str | None = None,
    drop: Drop | None = None,
) -> Made:
    """Describe what was written."""
    return Made(
        bytes_before=bytes_before,
        weights=tuple(weight_report(weight) for weight in stored if weight.method != FLOAT16),
        skipped=tuple(skipped),
        digests={weight.name: weight.digest() for weight in stored},
        feeds=feeds,
        calibration=inputs.source if inputs is not None else None,
        unreadable=inputs.unreadable if inputs is not None else (),
        doubt=doubt,
        drop=drop,
    )

"""Execution of one run: write the model, then measure its quality and cost."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.compression.inspect import inspect
from qqonnx.compression.pipeline import compress
from qqonnx.config import Calibration
from qqonnx.encoding.record import is_compressed
from qqonnx.errors import QqonnxError, first_line
from qqonnx.evaluation.results import worst
from qqonnx.evaluation.runner import total_bytes
from qqonnx.evaluation.samples import holds_images
from qqonnx.evaluation.transfer import brotli_bytes, gzip_bytes
from qqonnx.functions import importable
from qqonnx.inputs.dataset import open_dataset
from qqonnx.model.load import load, model_files, read
from qqonnx.sweep import describe
from qqonnx.sweep.baselines import BASELINES, FLOAT32, BaselineRequest
from qqonnx.sweep.config import target_of
from qqonnx.sweep.grid import TARGET, Run
from qqonnx.sweep.machine import hardware, peak_bytes, reset_peak, versions
from qqonnx.sweep.measure import score_run, time_ratios
from qqonnx.sweep.sources import model_digest
from qqonnx.sweep.splits import calibration_split
from qqonnx.sweep.store import COLUMNS
from qqonnx.sweep.threads import session_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qqonnx.compression.results import WeightReport


MODEL = "model.onnx"
"""Name of the model file that a run writes to a folder of its own."""


SCORES = ("samples", "top1", "top5")
"""Properties of a `Score` that are columns of the results file."""


class RunError(Exception):
    """A failure after which another attempt may succeed; its text is a single line."""

    @classmethod
    def from_exception(cls, error: BaseException) -> RunError:
        """Return an error of another package as a single line."""
        return cls(f"{type(error).__name__}: {first_line(error)}")


def execute(run: Run, target: Path) -> dict[str, Any]:
    """Execute a run; a process can execute only one at a time.

    Args:
        run: the run.
        target: the file to write the model to.

    Returns:
        Columns of the results file and their values, except the timings.

    Raises:
        QqonnxError: the run cannot succeed, however often it is tried.
        RunError: any other failure.
    """
    reset_peak()
    started, begin = datetime.now(timezone.utc), time.perf_counter()
    try:
        with session_threads(run.threads), importable(run.folders):
            notes, weights = _make(run, target)
            measured = _measure(run, target, weights)
    except QqonnxError as error:
        # The user knows the run, not its temporary file.
        raise QqonnxError(str(error).replace(str(target), "its model")) from error
    except Exception as error:  # errors of other packages have no common class
        raise RunError.from_exception(error) from error
    return {
        "status": "done",
        "error": None,
        "worker": f"{platform.node()}:{os.getpid()}",
        **measured,
        "options": json.dumps({**run.described_options(), **notes}, sort_keys=True),
        "versions": json.dumps(versions()),
        "hardware": json.dumps(hardware()),
        "started": started.isoformat(timespec="seconds"),
        "wall_s": round(time.perf_counter() - begin, 3),
        "peak_rss_bytes": peak_bytes(),
    }


def execute_timing(run: Run, path: Path, repeats: int) -> dict[str, Any]:
    """Measure load time and latency; return them as columns of the results file.

    Raises:
        RunError: the model does not run.
    """
    try:
        with importable(run.folders):
            load_ratio, latency_ratio = time_ratios(path, run, repeats)
    except Exception as error:
        raise RunError.from_exception(error) from error
    return {"load_ratio": load_ratio, "latency_ratio": latency_ratio}


def _make(run: Run, target: Path) -> tuple[dict[str, Any], Sequence[WeightReport]]:
    """Write the model; return notes for the column `options`, and reports of its codebooks."""
    with _calibration_data(run) as data:
        calibration = run.calibration
        if run.is_baseline:
            inputs = None
            if calibration is not None:
                inputs = calibration_inputs(load(run.model.path), data, calibration.samples)
            request = BaselineRequest(run.model.path, target, run.bits or 0, inputs)
            notes = dict(BASELINES[run.method].make(request))
            return notes, inspect(target).weights if is_compressed(read(target)) else ()
        options, target_calibration = run.options, None
        if run.method == TARGET:
            assert calibration is not None
            assert run.budget is not None
            target_calibration = Calibration(
                data,
                calibration.samples,
                target_of(run.budget),
                finetune=calibration.finetune,
            )
        else:
            options = replace(
                options, method=run.method, bits=run.bits, granularity=run.granularity
            )
        report = compress(
            run.model.path,
            target,
            options,
            calibration=target_calibration,
            threads=run.threads,
        )
        return {"calibrated with": report.calibration} if target_calibration else {}, report.weights


@contextmanager
def _calibration_data(run: Run) -> Iterator[Path | str | None]:
    calibration = run.calibration
    if calibration is None:
        yield None
    elif calibration.split:
        if not holds_images(run.dataset.data):
            raise QqonnxError(f"{run.dataset.name}: only images have a split for calibration")
        dataset = open_dataset(run.dataset.path, labels_required=False)
        with calibration_split(dataset, run.reserved) as path:
            yield path
    else:
        yield None if calibration.data is None else calibration.data.data


def _measure(run: Run, path: Path, weights: Sequence[WeightReport]) -> dict[str, Any]:
    files = model_files(read(path), path)
    nbytes = sum(file.stat().st_size for file in files)
    count, _ = describe.size_and_squares(run.model)
    score, values = score_run(path, run)
    columns: dict[str, Any] = {
        "weights": count,
        "bits_per_weight": 8 * nbytes / count if count else None,
        "file_bytes": nbytes,
        "file_sha256": model_digest(path),
        "gzip_bytes": sum(map(gzip_bytes, files)),
        "brotli_bytes": total_bytes(files, brotli_bytes),
        **{name: getattr(score, name) for name in SCORES},
        **{name: value for name, value in worst(score.outputs).items() if name in COLUMNS},
        "intervals": json.dumps(score.intervals),
        "outputs": json.dumps([_finite(asdict(output)) for output in score.outputs]),
        "metrics": json.dumps(values) if values else None,
    }
    if weights:
        columns |= {
            "weight_error": describe.error_of_codebooks(run.model, weights),
            "entropy": describe.entropy_of(weights),
            "layers": json.dumps(describe.layers_of(weights)),
            "histogram": json.dumps(describe.histograms_of(run.model, path)),
        }
    else:
        columns["weight_error"] = describe.error_of_floats(run.model, path)
    if run.method == FLOAT32:
        # The reference of the ratios is not timed against itself.
        columns |= {"load_ratio": 1.0, "latency_ratio": 1.0}
    return columns


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return numbers for JSON, which has no infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }

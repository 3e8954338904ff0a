"""Measure the time of calibration, by stage and against ONNX Runtime's own calibration.

    python tools/bench_calibration.py MODEL --data INPUTS [--target-bits 4.4] [--samples 256]

All times are processor seconds of one process on one core. `quantize_static` of ONNX Runtime gets
the same inputs, one sample per run, with ranges by minimum and maximum and scales per channel. It
runs before and after calibration, because machines change their speed, and the mean counts. The
outputs are compared on inputs that neither has seen: those after the first `--samples`. Without
`--data`, the model is calibrated by default: on synthetic inputs and at `--bits`.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from rich.console import Console
from rich.table import Table
from stages import stage_times

from qqonnx import Options, compress
from qqonnx.compression.quality import measure_quality
from qqonnx.config import Calibration, Target
from qqonnx.inputs import read_inputs
from qqonnx.model.load import load

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGES = {
    "inputs": ("compression.calibrated.calibration_inputs",),
    "moments": ("calibration.passes.collect_moments",),
    "errors by level": ("calibration.measure.weight_errors",),
    "shrinkage": ("calibration.measure.best_shrinkage",),
    "half-fitted weights": ("calibration.measure.quantize_matrix",),
    "runs of changed weights": ("calibration.sensitivity.run_session",),
    "final weights": ("calibration.calibrate.quantize_matrix",),
    "encoding": ("calibration.calibrate.encode_matrix",),
    "judgement": ("compression.calibrated.measure_qualities",),
}
"""Stage -> its timed functions, by the module that calls them."""


def main() -> None:
    """Calibrate, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, help="inputs as convert-model takes them")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--target-bits", type=float, default=4.4)
    parser.add_argument("--bits", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure one model and print the stages, the ratio and the divergence of its outputs."""
    output = folder / "small.onnx"
    judged: list[dict[str, np.ndarray[Any, Any]]] = []
    peers: list[float] = []
    if arguments.data is None:
        options = Options(bits=arguments.bits)
        work = partial(compress, arguments.model, output, options, threads=1)
    else:
        feeds = read_inputs(load(arguments.model), arguments.data, 1 << 30, shuffled=True).feeds
        samples = [sample for feed in feeds for sample in single(feed)]
        fitted, judged = samples[: arguments.samples], samples[arguments.samples :]
        calibration = Calibration(batched(fitted), target=Target(bits=arguments.target_bits))
        work = partial(compress, arguments.model, output, calibration=calibration, threads=1)
        peers.append(peer_seconds(arguments.model, folder, fitted))
    stages = stage_times(work, STAGES, time.process_time)
    show(stages)
    whole = stages["whole"]
    print(f"{arguments.model.name}: {output.stat().st_size:,} bytes, {whole:.1f} s")
    if not judged:
        return
    peers.append(peer_seconds(arguments.model, folder, fitted))
    peer = sum(peers) / len(peers)
    runs = " and ".join(f"{seconds:.1f}" for seconds in peers)
    print(f"quantize_static: {runs} s; calibration takes {whole / peer:.2f} times as long")
    for name in ("small.onnx", "int8.onnx"):
        quality = measure_quality(
            arguments.model, folder / name, batched(judged), "unseen inputs", optimized=True
        )
        for entry in quality.outputs:
            print(f"{name} {entry.name}, {entry.samples} unseen samples: {numbers(entry)}")
    print(f"{len(fitted)} samples of {arguments.data.name}; {platform.machine()}, one core")


def peer_seconds(model: Path, folder: Path, fitted: list[dict[str, np.ndarray[Any, Any]]]) -> float:
    """Return the processor seconds of ONNX Runtime's `quantize_static`."""
    start = time.process_time()
    quantize_static(model, folder / "int8.onnx", Reader(fitted), per_channel=True)
    return time.process_time() - start


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration inputs as ONNX Runtime reads them."""

    def __init__(self, feeds: list[dict[str, np.ndarray[Any, Any]]]) -> None:
        self.feeds: Iterator[dict[str, np.ndarray[Any, Any]]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """Return the inputs of the next run."""
        return next(self.feeds, None)


def single(feed: dict[str, np.ndarray[Any, Any]]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Split a run into its samples."""
    count = min(len(array) for array in feed.values())
    return [{name: array[i : i + 1] for name, array in feed.items()} for i in range(count)]


def batched(samples: list[dict[str, np.ndarray[Any, Any]]]) -> list[dict[str, Any]]:
    """Join samples of equal shapes into runs of eight."""
    return [
        {name: np.concatenate([s[name] for s in samples[i : i + 8]]) for name in samples[0]}
        for i in range(0, len(samples), 8)
    ]


def show(stages: dict[str, float]) -> None:
    """Print the stages as shares of the whole."""
    table = Table("stage", "s", "%")
    for stage, seconds in stages.items():
        table.add_row(stage, f"{seconds:.1f}", f"{100 * seconds / stages['whole']:.0f}")
    Console().print(table)


def numbers(entry: Any) -> str:
    """Return what an output lost."""
    if entry.kl is not None:
        return f"KL {entry.kl:.4f}, agreement {100 * entry.agreement:.1f} %"
    return f"relative error {100 * entry.relative_error:.1f} %, cosine {entry.cosine:.4f}"


if __name__ == "__main__":
    main()

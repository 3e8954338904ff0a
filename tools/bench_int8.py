"""Integer execution: size, agreement with the float model, and run time beside ONNX Runtime's int8.

python tools/bench_int8.py MODEL --data DATA [--judge DATA] [--form int8-static] [--bits 4.4,8]
    [--write docs/performance.md]

DATA is whatever `convert-model --calibration` takes. Without --judge, every second run judges and
the others calibrate. All sessions are open at once, and their runs are interleaved, so that ratios
of processor times hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from sections import write_section

from qqonnx import Calibration, Options, Target, compress
from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.evaluation.quality import output_quality
from qqonnx.integer.layers import form_of
from qqonnx.model.load import load
from qqonnx.sweep.baselines import BaselineRequest
from qqonnx.sweep.ort_baselines import dynamic_int8, qdq_channel

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """What was measured of one file."""

    label: str
    nbytes: int
    agreement: float | None
    kl: float | None
    cosine: float
    run: float
    load: float


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True, help="inputs that calibrate")
    parser.add_argument("--judge", help="inputs that judge; by default every second one of --data")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--form", help="int8-static or int8-dynamic; by default what suits")
    parser.add_argument("--bits", default="4.4,8", help="bits per weight of the file")
    parser.add_argument("--range", type=int, default=63, dest="limit")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--write", type=Path, help="document to write the table into")
    args = parser.parse_args()

    model = load(args.model)
    form = args.form or form_of(model) or "int8-dynamic"
    feeds = list(calibration_inputs(model, args.data, args.samples).batches())
    judged = feeds[1::2]
    if args.judge:
        judged = list(calibration_inputs(model, args.judge, args.samples).batches())
    else:
        feeds = feeds[::2]
    with tempfile.TemporaryDirectory() as name:
        data = stacked(feeds, Path(name) / "calibration.npz")
        files = make_files(args.model, Path(name), form, data, args.bits.split(","), args.limit)
        rows = measure(files, judged, args.repeat)
    text = table(rows) + caption(args.model, form, feeds, judged, args.limit)
    print(text)
    if args.write:
        write_section(args.write, f"int8 {args.model.stem}", text)


def stacked(feeds: list[Feed], path: Path) -> Path | list[Feed]:
    """Write runs of equal shapes as samples of one file; return other runs as they are."""
    shapes = {name: {feed[name].shape[1:] for feed in feeds} for name in feeds[0]}
    if any(len(found) > 1 for found in shapes.values()):
        return feeds
    np.savez(path, **{name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]})
    return path


def make_files(
    model: Path, folder: Path, form: str, data: Path | list[Feed], bits: list[str], limit: int
) -> dict[str, Path]:
    """Write the files to compare; return them by label."""
    files = {"float": model}
    baseline = folder / "ort.onnx"
    inputs = calibration_inputs(load(model), data, 10**6)
    request = BaselineRequest(model, baseline, 8, inputs)
    (qdq_channel if form == "int8-static" else dynamic_int8)(request)
    files["ONNX Runtime's int8"] = baseline
    for number in bits:
        calibration = Calibration(data, samples=10**6, target=Target(bits=float(number)))
        for label, compute in (("float", "float"), ("int8", form)):
            path = folder / f"{label}-{number}.onnx"
            options = Options(compute=compute, int8_range=limit)
            compress(model, path, options, calibration=calibration)
            files[f"qqonnx, {number} bits, {label}"] = path
    return files


def measure(files: dict[str, Path], judged: list[Feed], repeat: int) -> list[Row]:
    """Run all files on the same inputs, one after the other in every repetition."""
    sessions, loads = {}, {}
    for label, path in files.items():
        loads[label] = min(timed_load(path)[1] for _ in range(3))
        sessions[label] = timed_load(path)[0]
    one = {name: array[:1] for name, array in judged[0].items()}
    times: dict[str, list[float]] = {label: [] for label in files}
    for _ in range(repeat):
        for label, session in sessions.items():
            start = time.process_time()
            session.run(None, one)
            times[label].append(time.process_time() - start)
    outputs = {
        label: [session.run(None, feed)[0] for feed in judged]
        for label, session in sessions.items()
    }
    rows = []
    for label, path in files.items():
        quality = output_quality("", outputs["float"], outputs[label])
        ratio = np.median(times[label]) / np.median(times["float"])
        rows.append(
            Row(
                label,
                path.stat().st_size,
                quality.agreement,
                quality.kl,
                quality.cosine,
                float(ratio),
                loads[label] / loads["float"],
            )
        )
    return rows


def timed_load(path: Path) -> tuple[Any, float]:
    """Open a file on one thread; return the session and the processor seconds."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    start = time.process_time()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, time.process_time() - start


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| file | MB | agree % | KL nats | cosine | run × | load × |", "|---|" + "---:|" * 6]
    for row in rows:
        agreement = "" if row.agreement is None else f"{100 * row.agreement:.1f}"
        kl = "" if row.kl is None else f"{row.kl:.4f}"
        lines.append(
            f"| {row.label} | {row.nbytes / 1e6:.2f} | {agreement} | {kl} | {row.cosine:.4f} "
            f"| {row.run:.2f} | {row.load:.2f} |"
        )
    return "\n".join(lines) + "\n"


def caption(model: Path, form: str, feeds: list[Feed], judged: list[Feed], limit: int) -> str:
    """Return what was measured, and on what."""
    samples = [sum(max(len(a) for a in feed.values()) for feed in part) for part in (feeds, judged)]
    return (
        f"\n`{model.name}`, {form}, levels within ±{limit}: calibrated with {samples[0]} samples, "
        f"judged on {samples[1]} others. Run and load are processor times divided by the float "
        f"model's, one thread, one sample. ONNX Runtime {ort.__version__}, {platform.system()} "
        f"{platform.machine()}.\n"
    )


if __name__ == "__main__":
    main()

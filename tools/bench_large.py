"""Peak memory and time of calibrating a large transformer with random weights.

    python tools/bench_large.py [--gigabytes 1] [--target-bits 4.4] [--write docs/performance.md]

The blocks have a hidden size of 2,048 and an MLP of 8,192. Inputs are 64 random sequences of 32
tokens. The peak is the largest resident memory of the process, the mapped model file included.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sections import write_or_print

from qqonnx import Calibration, Target, compress

HIDDEN, MLP = 2048, 8192
BLOCK_BYTES = 4 * (4 * HIDDEN**2 + 2 * HIDDEN * MLP)


def main() -> None:
    """Build, calibrate, print or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--target-bits", type=float, default=4.4)
    parser.add_argument("--write", type=Path, help="document to write into")
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "large.onnx"
        build(model, round(arguments.gigabytes * 1e9 / BLOCK_BYTES))
        size = sum(file.stat().st_size for file in Path(name).iterdir())
        runs = [{"x": random.standard_normal((8, 32, HIDDEN), np.float32)} for _ in range(8)]
        calibration = Calibration(runs, target=Target(bits=arguments.target_bits))
        built, start = peak(), time.process_time()
        report = compress(model, Path(name) / "small.onnx", calibration=calibration, threads=1)
        seconds = time.process_time() - start
    assert report.quality is not None
    error = report.quality.outputs[0].relative_error
    text = (
        f"A transformer of {size / 1e9:.2f} GB (hidden {HIDDEN:,}, MLP {MLP:,}, random weights) "
        f"at {arguments.target_bits:g} bits, one thread: {seconds / 60:.0f} minutes of processor "
        f"time, at most {peak() / 1e9:.1f} GB resident ({built / 1e9:.1f} GB before calibration), "
        f"{report.bytes_after / 1e6:.0f} MB, relative error {100 * error:.1f} %. "
        f"{platform.system()} {platform.machine()}."
    )
    write_or_print(arguments.write, f"large {arguments.gigabytes:g}", text)


def peak() -> float:
    """Return the largest resident memory so far, in bytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build(path: Path, blocks: int) -> None:
    """Write a transformer with random weights, each block's in a file of its own."""
    random = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"

    def weight(name: str, rows: int, columns: int) -> str:
        array = random.standard_normal((rows, columns), np.float32) / np.float32(rows**0.5)
        file = path.with_name(name)
        file.write_bytes(array.tobytes())
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
        tensors.append(tensor)
        return name

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    tensors.append(numpy_helper.from_array(np.ones(HIDDEN, np.float32), "ones"))
    tensors.append(numpy_helper.from_array(np.float32(HIDDEN**-0.5), "factor"))
    for number in range(blocks):
        at = f"b{number}."
        normed = node("LayerNormalization", [last, "ones"], at + "n")
        q, k, v = (
            node("MatMul", [normed, weight(at + name, HIDDEN, HIDDEN)], at + name + "o")
            for name in "qkv"
        )
        scores = node("MatMul", [q, node("Transpose", [k], at + "t", perm=[0, 2, 1])], at + "s")
        shares = node("Softmax", [node("Mul", [scores, "factor"], at + "m")], at + "p")
        mixed = node("MatMul", [shares, v], at + "a")
        out = node("MatMul", [mixed, weight(at + "o", HIDDEN, HIDDEN)], at + "oo")
        first = node("Add", [last, out], at + "r")
        normed = node("LayerNormalization", [first, "ones"], at + "n2")
        up = node("MatMul", [normed, weight(at + "up", HIDDEN, MLP)], at + "u")
        down = node(
            "MatMul", [node("Relu", [up], at + "g"), weight(at + "down", MLP, HIDDEN)], at + "d"
        )
        last = node("Add", [first, down], at + "y")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", HIDDEN])
        for name in ("x", last)
    ]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, path)


if __name__ == "__main__":
    main()

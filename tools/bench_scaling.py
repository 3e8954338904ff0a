"""Compare conversion by qqonnx and other packages at growing model sizes; for tools/bench.py.

Each package compresses the same model (MatMul layers of at most 1 million weights, seeded normal
values) in a process of its own. The CPU time and the peak memory of that process are measured,
without those of its preparation (imports, creation of the model).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.sweep.machine import peak_bytes

if TYPE_CHECKING:
    import argparse

SIDE = 1000
"""A layer has at most SIDE x SIDE weights."""

SLOW_UP_TO = 10**6
"""Largest number of weights for packages whose k-means would take minutes beyond it."""

Work = Callable[[Path, Path], None]


def make_model(path: Path, count: int) -> None:
    """Write a chain of MatMul layers with `count` weights in all, as external data."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    layers, rows = max(count // SIDE**2, 1), min(count, SIDE**2) // SIDE
    graph = helper.make_graph(
        [],
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, ["N", SIDE])],
    )
    for layer in range(layers):
        values = np.random.default_rng(layer).standard_normal((rows, SIDE), np.float32) / 32
        graph.initializer.append(numpy_helper.from_array(values, f"w{layer}"))
        names = [f"x{layer}", f"w{layer}"]
        graph.node.append(helper.make_node("MatMul", names, [f"x{layer + 1}"]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def weights_of(path: Path) -> list[np.ndarray]:
    """Return the weights of a model written by `make_model`."""
    import onnx

    return [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]


def sort(model: Path, _: Path) -> None:
    """Sort every weight. All times are relative to this."""
    for values in weights_of(model):
        np.sort(values, axis=None)


def qqonnx_kmeans(model: Path, output: Path) -> None:
    """Compress by k-means at 4 bits, verify and write."""
    from qqonnx import Options, compress

    compress(model, output, Options(method="kmeans", bits=4), threads=1)


def qqonnx_quantile(model: Path, output: Path) -> None:
    """Compress by quantiles at 4 bits, verify and write."""
    from qqonnx import Options, compress

    compress(model, output, Options(method="qq", bits=4), threads=1)


def scikit_learn(model: Path, _: Path) -> None:
    """Cluster into 16; neither pack nor write."""
    from sklearn.cluster import KMeans

    for values in weights_of(model):
        KMeans(16, n_init=1, random_state=0).fit(values.reshape(-1, 1))


def kmeans1d(model: Path, _: Path) -> None:
    """Cluster into 16 (the exact optimum); neither pack nor write."""
    import kmeans1d as exact

    for values in weights_of(model):
        exact.cluster(values.reshape(-1), 16)


def coremltools(model: Path, _: Path) -> None:
    """Cluster into 16; neither pack nor write."""
    from coremltools.models.neural_network import quantization_utils

    for values in weights_of(model):
        quantization_utils._get_kmeans_lookup_table_and_weight(4, values)


def ort_dynamic(model: Path, output: Path) -> None:
    """Quantize to 8-bit weights, with scales of activations computed at run time."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, output, use_external_data_format=True)


def ort_static(model: Path, output: Path) -> None:
    """Quantize weights and activations to 8 bits, calibrated on one input."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    rows = ort.InferenceSession(model).get_inputs()[0].shape[1]

    class OneInput(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x0": np.ones((1, rows), np.float32)}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantize_static(model, output, OneInput(), use_external_data_format=True)


def nncf_4bit(model: Path, output: Path) -> None:
    """Compress to 4-bit weights with NNCF's compress_weights."""
    import nncf
    import onnx

    kept = nncf.compress_weights(onnx.load(model), mode=nncf.CompressWeightsMode.INT4_SYM)
    onnx.save(kept, output, save_as_external_data=True)


CONTESTANTS: dict[str, tuple[Work, str, int]] = {
    "np.sort": (sort, "numpy", 10**10),
    "qqonnx, k-means, 4 bits": (qqonnx_kmeans, "qqonnx", 10**10),
    "qqonnx, quantiles, 4 bits": (qqonnx_quantile, "qqonnx", 10**10),
    "scikit-learn KMeans, 16": (scikit_learn, "scikit-learn", SLOW_UP_TO),
    "kmeans1d, 16": (kmeans1d, "kmeans1d", SLOW_UP_TO),
    "coremltools k-means, 16": (coremltools, "coremltools", SLOW_UP_TO),
    "ONNX Runtime quantize_dynamic, 8 bits": (ort_dynamic, "onnxruntime", 10**8),
    "ONNX Runtime quantize_static, 8 bits": (ort_static, "onnxruntime", 10**8),
    "NNCF compress_weights, 4 bits": (nncf_4bit, "nncf", 10**8),
}
"""name -> its function, the package it needs, and the largest number of weights."""


def measure(name: str, model: Path, repeats: int) -> dict[str, float] | str:
    """Run a contestant in a process of its own; return its figures, or the error message."""
    command = [sys.executable, __file__, name, str(model), str(repeats)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def section(options: argparse.Namespace) -> str:
    """Return the section as Markdown: CPU time over np.sort's, memory over the model's."""
    counts = [10**n for n in range(5, options.largest + 1)]
    found: dict[str, list[str]] = {name: [] for name in CONTESTANTS}
    left_out: dict[str, str] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model.onnx"
            make_model(model, count)
            base = 1.0
            for name, (_, package, most) in CONTESTANTS.items():
                if name in left_out or count > most:
                    found[name].append("")
                    continue
                try:
                    importlib.metadata.version(package)
                except importlib.metadata.PackageNotFoundError:
                    if package != "qqonnx":
                        left_out[name] = f": {package} is not installed"
                        continue
                figures = measure(name, model, options.repeats)
                if isinstance(figures, str):
                    left_out[name] = f" at {count:,} weights: {figures}"
                    found[name].append("")
                    continue
                if name == "np.sort":
                    base = figures["cpu"]
                memory = figures["memory"] / (4 * count)
                found[name].append(f"{figures['cpu'] / base:.1f} ({memory:.1f})")
    rows = [
        "## Conversion",
        "",
        "CPU time divided by that of `np.sort` (reading the file included). In parentheses: growth "
        "of peak memory divided by the bytes of the weights. One thread.",
        "",
        f"| weights | {' | '.join(f'{count:,}' for count in counts)} |",
        f"|---|{'---:|' * len(counts)}",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in found.items() if any(cells)),
        "",
        *(f"{name}, omitted{reason}.  " for name, reason in left_out.items()),
        f"Python {platform.python_version()}, numpy {np.__version__}, {platform.system()} "
        f"{platform.machine()}.",
    ]
    return "\n".join(rows)


def child(name: str, model: Path, repeats: int) -> None:
    """Run one contestant and print its figures as JSON."""
    work, _, _ = CONTESTANTS[name]
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        make_model(small, 10_000)
        work(small, Path(folder) / "warm.onnx")
        before = peak_bytes() or 0
        least = np.inf
        for _ in range(repeats):
            start = time.process_time()
            work(model, Path(folder) / "output.onnx")
            least = min(least, time.process_time() - start)
        peak = peak_bytes() or 0
    print(json.dumps({"cpu": least, "memory": peak - before}))


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

"""Run compressed files in many releases of ONNX Runtime and write a table of the results.

    python tools/runtime_matrix.py FOLDER [--releases 1.15.0,1.24.4] [--write docs/runtimes.md]

The grid is every opset from 13 to the newest and every storage form: 1 to 8 bits and 3 and 6
levels, each at granularities tensor, channel and scale; and 2, 4, 6 and 8 bits with static and
dynamic int8 execution. FOLDER keeps the models, and for each
release a virtual environment (of this Python, or --python) and a file of results. Existing results
are not measured again.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from qqonnx import Options, compress
from qqonnx.model.runtimes import LIMITS

if TYPE_CHECKING:
    from qqonnx.config import Compute, Granularity

RELEASES = (
    "1.15.0,1.16.3,1.17.3,1.18.1,1.19.2,1.20.1,1.21.1,1.22.1,1.23.2,1.24.4,1.25.1,1.26.0,1.27.0,"
    "1.28.0,1.29.0,1.30.0,1.31.1,1.32.0"
)
# Opsets that onnx knows before any release runs them cannot be tested.
OPSETS = range(13, max(LIMITS.values())[0] + 1)
IR_VERSIONS = range(7, onnx.IR_VERSION + 1)
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "scale")

PROBE = """
import json, sys, pathlib, numpy as np, onnxruntime as ort
folder = pathlib.Path(sys.argv[1])
inputs = dict(np.load(str(folder / "inputs.npz")))
expected = np.load(str(folder / "expected.npz"))
options = ort.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = 1
results = {}
for path in sorted(folder.glob("*.onnx")):
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        output = session.run(None, {name: inputs[name] for name in names})[0]
        wanted = expected[path.stem] if path.stem in expected.files else output
        # A last bit of a float flips the rounding of an activation to int8.
        limit = 2e-2 if "int8" in path.stem else 1e-3
        close = np.abs(output - wanted).max() <= limit * np.abs(wanted).max()
        results[path.stem] = None if close else "other outputs"
    except Exception as error:
        results[path.stem] = str(error).splitlines()[0][:200]
print(json.dumps(results))
"""
"""Script for the environment of a release, which has neither onnx nor qqonnx."""

TEXT = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
g (int64[2, 3] tokens, float[2, 128, 5, 5] image) => (float[2, 24] y) {{
    words = Gather(table, tokens)
    flat = Flatten(words)
    conved = Conv <group = 2, pads = [1, 1, 1, 1]> (image, kernel)
    features = Flatten(conved)
    gemmed = Gemm(features, gemm, bias)
    mixed = MatMul(flat, matmul)
    y = Add(gemmed, mixed)
}}
"""


def main() -> None:
    """Prepare, run every release, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--releases", default=RELEASES)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--write", type=Path, help="a Markdown file")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    models = folder / "models"
    if not (models / "expected.npz").exists():
        models.mkdir(parents=True, exist_ok=True)
        _prepare(models)
    results = {}
    for release in arguments.releases.split(","):
        cached = folder / f"{release}.json"
        if not cached.exists():
            cached.write_text(_probed(release, folder, arguments.python), "utf-8")
        results[release] = json.loads(cached.read_text("utf-8"))
        print(f"{release}: {_summary(results[release])}", flush=True)
    if arguments.write:
        arguments.write.write_text(_document(results), "utf-8")


def _prepare(models: Path) -> None:
    random = np.random.default_rng(0)
    inputs: dict[str, Any] = {
        "tokens": random.integers(0, 50, (2, 3)),
        "image": random.standard_normal((2, 128, 5, 5)).astype(np.float32),
    }
    np.savez(models / "inputs.npz", **inputs)
    # Large enough that a codebook for each channel still saves space at 8 bits.
    shapes = {
        "table": (50, 300),
        "kernel": (32, 64, 3, 3),
        "gemm": (800, 24),
        "matmul": (900, 24),
    }
    arrays = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    arrays["bias"] = random.standard_normal(24)
    expected = {}
    for opset in OPSETS:
        ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
        plain = onnx.parser.parse_model(TEXT.format(ir=max(ir_version, 7), opset=opset))
        for name, array in arrays.items():
            plain.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        source = models / "plain.tmp"
        onnx.save(plain, source)
        for label, options in _forms():
            target = models / f"opset {opset} {label}.onnx"
            if not target.exists():
                compress(source, target, options)
            session = ort.InferenceSession(target, providers=["CPUExecutionProvider"])
            expected[target.stem] = session.run(None, inputs)[0]
        source.unlink()
    for ir_version in IR_VERSIONS:
        text = f'<ir_version: {ir_version}, opset_import: ["" : 13]>'
        model = onnx.parser.parse_model(
            f"{text} g (float[2, 128, 5, 5] image) => (float[2, 128, 5, 5] y) {{ y = Relu(image) }}"
        )
        onnx.save(model, models / f"ir {ir_version}.onnx")
    np.savez(models / "expected.npz", **expected)


def _forms() -> list[tuple[str, Options]]:
    forms = []
    for granularity in GRANULARITIES:
        for bits in range(1, 9):
            options = Options(bits=bits, granularity=granularity, min_size=512)
            forms.append((f"{granularity} {bits} bits", options))
        for levels in (3, 6):
            options = Options(levels=levels, granularity=granularity, min_size=512)
            forms.append((f"{granularity} {levels} levels", options))
    computes: tuple[Compute, ...] = ("int8-static", "int8-dynamic")
    for compute in computes:
        for bits in (2, 4, 6, 8):
            options = Options(bits=bits, compute=compute, min_size=512)
            forms.append((f"{compute} {bits} bits", options))
    return forms


def _probed(release: str, folder: Path, python: str) -> str:
    environment = folder / f"venv {release}"
    binary = environment / "bin" / "python"
    if not binary.exists():
        subprocess.run([python, "-m", "venv", str(environment)], check=True)
    install = [str(binary), "-m", "pip", "install", "-q", f"onnxruntime=={release}"]
    # Releases before 1.19 were built for numpy 1.
    if tuple(map(int, release.split(".")[:2])) < (1, 19):
        install.append("numpy<2")
    subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    done = subprocess.run(
        [str(binary), "-c", PROBE, str(folder / "models")], check=True, capture_output=True
    )
    return done.stdout.decode("utf-8").strip().splitlines()[-1]


def _summary(result: dict[str, str | None]) -> str:
    opset, ir_version = _limits(result)
    return f"opsets to {opset}, IR versions to {ir_version}; {_other_failures(result) or 'all run'}"


def _limits(result: dict[str, str | None]) -> tuple[int, int]:
    """Return the newest opset and IR version that a release runs."""
    opsets = [opset for opset in OPSETS if any(v is None for v in _of(result, opset).values())]
    versions = [version for version in IR_VERSIONS if result.get(f"ir {version}", "") is None]
    return max(opsets, default=0), max(versions, default=0)


def _of(result: dict[str, str | None], opset: int) -> dict[str, str | None]:
    return {name: value for name, value in result.items() if name.startswith(f"opset {opset} ")}


def _other_failures(result: dict[str, str | None]) -> dict[str, Any]:
    """Return the failures at opsets that the release runs."""
    newest, _ = _limits(result)
    supported = [
        entry for opset in OPSETS if opset <= newest for entry in _of(result, opset).items()
    ]
    return {name: reason for name, reason in supported if reason is not None}


def _document(results: dict[str, dict[str, str | None]]) -> str:
    lines = [
        "# Releases of ONNX Runtime",
        "",
        "Written by `tools/runtime_matrix.py`; do not edit. A cell is the number of",
        f"storage forms, out of {len(_forms())}, whose outputs agree with those of the newest",
        "release. The forms are 1 to 8 bits and 3 and 6 levels, each at granularities tensor,",
        "channel and scale, and 2, 4, 6 and 8 bits with static and dynamic int8 execution, in a",
        "model of Conv, Gemm, MatMul and Gather. Outputs agree within 0.1 % of the largest, with",
        "int8 execution within 2 %. A dash means that the release does not read that opset.",
        "",
        "| release | IR up to | " + " | ".join(f"opset {opset}" for opset in OPSETS) + " |",
        "|---|---|" + "---|" * len(OPSETS),
    ]
    for release, result in results.items():
        newest, ir_version = _limits(result)
        cells = []
        for opset in OPSETS:
            good = sum(value is None for value in _of(result, opset).values())
            cells.append(str(good) if opset <= newest else "–")
        lines.append(f"| {release} | {ir_version} | " + " | ".join(cells) + " |")
    lines += ["", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}."]
    for release, result in results.items():
        for name, reason in _other_failures(result).items():
            lines.append(f"\n- {release}, {name}: {reason}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

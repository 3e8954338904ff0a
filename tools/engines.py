"""Run other engines and graph simplifiers on compressed files and write tables of the results.

    python tools/engines.py [--write docs/engines.md]

Only installed packages take part. Engines (openvino, tract, opencv-python-headless, onnx2torch,
onnx's reference evaluator) run two models, the bundled one (opset 18) and a small one (opset 13),
as floats and in every storage form. Their outputs are compared with ONNX Runtime's. Simplifiers
(onnxsim, onnxslim, ONNX Runtime's offline optimization, onnxscript's optimizer) get a compressed
file of the bundled model, and the result is inspected.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort

from qqonnx import Options, compress, inspect

if TYPE_CHECKING:
    from collections.abc import Callable

BUNDLED = Path(__file__).parent.parent / "models" / "digits_mobilenet_v3_small.onnx"
FORMS = [
    (f"{bits} bits, {granularity}", Options(bits=bits, granularity=granularity, method="uq"))
    for granularity in ("tensor", "channel", "scale")
    for bits in range(1, 9)
]

SMALL = """
<ir_version: 7, opset_import: ["" : 13]>
g (float[1, 64, 8, 8] image) => (float[1, 32] y) {
    a = Conv <pads = [1, 1, 1, 1]> (image, kernel, bias)
    b = Relu(a)
    c = GlobalAveragePool(b)
    d = Flatten(c)
    e = Gemm <transB = 1> (d, gemm, offset)
    y = MatMul(e, matmul)
}
"""
SHAPES = {
    "kernel": (64, 64, 3, 3),
    "bias": (64,),
    "gemm": (128, 64),
    "offset": (128,),
    "matmul": (128, 32),
}

Array = np.ndarray[Any, Any]


def main() -> None:
    """Compress in every form, run everything, print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {"bundled": BUNDLED, "small": _small(Path(folder) / "small.onnx")}
        files = {name: _compressed(model, Path(folder)) for name, model in models.items()}
        lines = _engines(models, files)
        lines += ["", *_simplifiers(files["bundled"]["4 bits, scale"], Path(folder))]
    text = "\n".join(lines) + "\n"
    if arguments.write:
        arguments.write.write_text(text, "utf-8")
    else:
        print(text)


def _small(path: Path) -> Path:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(SMALL)
    for name, shape in SHAPES.items():
        values = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


def _compressed(model: Path, folder: Path) -> dict[str, Path]:
    files = {label: folder / f"{model.stem} {label}.onnx" for label, _ in FORMS}
    for label, options in FORMS:
        compress(model, files[label], options)
    return files


def _engines(models: dict[str, Path], files: dict[str, dict[str, Path]]) -> list[str]:
    lines = [
        "# Other engines and simplifiers",
        "",
        "Written by `tools/engines.py`; do not edit.",
        "",
        "## Engines",
        "",
        "Each engine runs the bundled model (opset 18) and a small model of Conv, Gemm and",
        f"MatMul (opset 13), as floats and in {len(FORMS)} storage forms: 1 to 8 bits at",
        "granularities tensor, channel and scale. *Same* means that every output differs from",
        "ONNX Runtime's, for the same file and input, by at most 0.1 % of the largest output.",
        "",
        "OpenCV and onnx2torch do not have MatMulInteger, which assembles codes of 3, 5, 6 and",
        "7 bits. onnx's reference evaluator implements GatherElements along the last axis of a",
        "matrix with `numpy.choose`, which takes at most 32 numbers; codebooks have up to 256.",
        "",
        "| engine | model | floats | compressed: same |",
        "|---|---|---|---|",
    ]
    for name, (package, run) in ENGINES.items():
        found = _version(package)
        if found is None:
            lines.append(f"| {name} | | not installed | |")
            continue
        for label, model in models.items():
            plain = _outcome(run, model)
            outcomes = Counter(_outcome(run, file) for file in files[label].values())
            good = f"{outcomes.pop('same', 0)} of {len(FORMS)}"
            others = "; ".join(sorted(outcomes))
            cell = good + (f" ({others})" if others and others != plain else "")
            lines.append(f"| {name} {found} | {label} | {plain} | {cell} |")
            print(lines[-1], file=sys.stderr)
    return lines


def _outcome(run: Callable[[Path, dict[str, Array]], Array], file: Path) -> str:
    inputs = _inputs(file)
    expected = _onnxruntime(file, inputs)
    try:
        actual = run(file, inputs)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    close = np.abs(actual - expected).max() <= 1e-3 * np.abs(expected).max()
    return "same" if close else "other outputs"


def _simplifiers(file: Path, folder: Path) -> list[str]:
    before = file.stat().st_size
    lines = [
        "## Simplifiers",
        "",
        f"The file is the bundled model at 4 bits with per-channel scales ({before:,} bytes).",
        "A re-inflated weight is no longer packed; `qqonnx inspect` counts these weights.",
        "",
        "| simplifier | bytes | re-inflated weights, counted by `inspect` |",
        "|---|---|---|",
    ]
    for name, (package, run) in SIMPLIFIERS.items():
        found = _version(package)
        if found is None:
            lines.append(f"| {name} | not installed | |")
            continue
        output = folder / "simplified.onnx"
        try:
            run(file, output)
            result = inspect(output)
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            lines.append(f"| {name} {found} | | fails: {reason} |")
            continue
        total = len(result.weights) + len(result.inflated)
        state = f"{len(result.inflated)} of {total}" if result.version else "its record is gone"
        lines.append(f"| {name} {found} | {output.stat().st_size:,} | {state} |")
    return lines


def _inputs(file: Path) -> dict[str, Array]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    shapes = {
        entry.name: [size if isinstance(size, int) else 1 for size in entry.shape]
        for entry in session.get_inputs()
    }
    return {name: random.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def _onnxruntime(file: Path, inputs: dict[str, Array]) -> Array:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, inputs)[0]
    return output


def _openvino(file: Path, inputs: dict[str, Array]) -> Array:
    import openvino

    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(inputs)[0])


def _tract(file: Path, inputs: dict[str, Array]) -> Array:
    import tract

    model = tract.onnx().load(str(file))
    for number, array in enumerate(inputs.values()):
        model.set_input_fact(number, f"{','.join(map(str, array.shape))},f32")
    output: Array = model.into_model().into_runnable().run(list(inputs.values()))[0].to_numpy()
    return output


def _opencv(file: Path, inputs: dict[str, Array]) -> Array:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(file))
    network.setInput(next(iter(inputs.values())))
    output: Array = network.forward()
    return output


def _onnx2torch(file: Path, inputs: dict[str, Array]) -> Array:
    import torch
    from onnx2torch import convert

    module = convert(str(file)).eval()
    with torch.inference_mode():
        output: Array = module(*map(torch.from_numpy, inputs.values())).numpy()
    return output


def _reference(file: Path, inputs: dict[str, Array]) -> Array:
    from onnx.reference import ReferenceEvaluator

    outputs: Any = ReferenceEvaluator(str(file)).run(None, inputs)
    return np.asarray(outputs[0])


def _onnxsim(file: Path, output: Path) -> None:
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(file))[0], output)


def _onnxslim(file: Path, output: Path) -> None:
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(file)), output)


def _offline(file: Path, output: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(output)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _onnxscript(file: Path, output: Path) -> None:
    import onnxscript.optimizer

    onnx.save(onnxscript.optimizer.optimize(onnx.load(file)), output)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


ENGINES: dict[str, tuple[str, Callable[[Path, dict[str, Array]], Array]]] = {
    "OpenVINO": ("openvino", _openvino),
    "tract": ("tract", _tract),
    "OpenCV": ("opencv-python-headless", _opencv),
    "onnx2torch": ("onnx2torch", _onnx2torch),
    "onnx's reference evaluator": ("onnx", _reference),
}

SIMPLIFIERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "onnxsim": ("onnxsim", _onnxsim),
    "OnnxSlim": ("onnxslim", _onnxslim),
    "ONNX Runtime's offline optimization": ("onnxruntime", _offline),
    "onnxscript's optimizer": ("onnxscript", _onnxscript),
}


if __name__ == "__main__":
    main()

"""Other engines and graph simplifiers on compressed files: what they do, written as a table.

    python tools/engines.py [MODEL] [--write FILE]

Takes those that are installed: openvino, onnx2torch, onnx's reference evaluator (engines, whose
outputs are compared with ONNX Runtime's); onnxsim, onnxslim, ONNX Runtime's offline optimization,
onnxscript's optimizer (simplifiers, whose result is inspected). The model is the bundled one.
"""

from __future__ import annotations

import argparse
import tempfile
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
    (f"{bits} bits, {granularity}", Options(bits=bits, granularity=granularity))
    for granularity in ("tensor", "channel", "scale")
    for bits in range(1, 9)
]

Array = np.ndarray[Any, Any]


def main() -> None:
    """Compress in every form, run everything, print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=BUNDLED)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for label, options in FORMS:
            files[label] = Path(folder) / f"{label}.onnx"
            compress(arguments.model, files[label], options)
        text = "\n".join([*_engines(files), "", *_simplifiers(files, Path(folder))]) + "\n"
    if arguments.write:
        arguments.write.write_text(text, "utf-8")
    else:
        print(text)


def _engines(files: dict[str, Path]) -> list[str]:
    lines = [
        "# Other engines and simplifiers",
        "",
        "Written by `tools/engines.py`; do not edit. Compressed files of the bundled model: 1 to 8",
        "bits, by tensor, by channel and with a scale a channel.",
        "",
        "## Engines",
        "",
        "Outputs on the same input compared with ONNX Runtime's, within 0.1 % of the largest.",
        "",
        "| engine | same outputs | otherwise |",
        "|---|---|---|",
    ]
    for name, (package, run) in ENGINES.items():
        found = _version(package)
        if found is None:
            lines.append(f"| {name} | not installed | |")
            continue
        good, problems = 0, set()
        for file in files.values():
            inputs = _inputs(file)
            expected = _onnxruntime(file, inputs)
            try:
                actual = run(file, inputs)
            except Exception as error:
                problems.add(" ".join(str(error).split())[:120] or type(error).__name__)
                continue
            if np.abs(actual - expected).max() <= 1e-3 * np.abs(expected).max():
                good += 1
            else:
                problems.add("other outputs")
        lines.append(f"| {name} {found} | {good} of {len(files)} | {'; '.join(sorted(problems))} |")
    return lines


def _simplifiers(files: dict[str, Path], folder: Path) -> list[str]:
    file = files["4 bits, scale"]
    before = file.stat().st_size
    lines = [
        "## Simplifiers",
        "",
        f"What they make of the file of 4 bits with scales ({before:,} bytes). Re-inflated weights",
        "are plain floats again; `qqonnx inspect` says so.",
        "",
        "| simplifier | bytes | re-inflated weights, as `inspect` counts them |",
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


def _onnx2torch(file: Path, inputs: dict[str, Array]) -> Array:
    import torch
    from onnx2torch import convert

    module = convert(str(file)).eval()
    with torch.inference_mode():
        output: Array = module(*map(torch.from_numpy, inputs.values())).numpy()
    return output


def _reference(file: Path, inputs: dict[str, Array]) -> Array:
    from onnx.reference import ReferenceEvaluator

    output: Array = ReferenceEvaluator(str(file)).run(None, inputs)[0]
    return output


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

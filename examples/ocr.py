"""Text recognition: compress the recognizer of RapidOCR, measure the errors in what it reads.

    pip install --no-deps rapidocr==3.10.0
    pip install "qqonnx[images]" jiwer
    python examples/ocr.py

Pillow renders lines of Python's documentation. See ocr.md.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import files
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from qqonnx import Calibration, Target, compress, evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "PP-OCRv6_rec_small.onnx"


@cache
def lines() -> list[str]:
    """Return lines of prose with 20 to 50 characters, each once."""
    found = (line.strip() for topic in sorted(topics) for line in topics[topic].splitlines())
    prose = (
        line
        for line in found
        if re.fullmatch(r"[A-Za-z][a-z]*([ ,.:;'\"()-]+[A-Za-z]+){2,}[.,:]?", line)
    )
    return [line for line in dict.fromkeys(prose) if 20 <= len(line) <= 50]


def image(text: str, seed: int) -> np.ndarray[Any, Any]:
    """Render a line as a photographed page would show it: float32 [1, 3, 48, width]."""
    random = np.random.default_rng(seed)
    font = ImageFont.load_default(int(random.integers(11, 30)))
    left, top, right, bottom = font.getbbox(text)
    paper, ink = int(random.integers(150, 256)), int(random.integers(0, 90))
    page = Image.new("L", (int(right - left) + 12, int(bottom - top) + 10), paper)
    ImageDraw.Draw(page).text((6 - left, 5 - top), text, ink, font)
    page = page.rotate(random.normal(0, 0.5), Image.Resampling.BICUBIC, fillcolor=paper)
    page = page.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.1)))
    page = page.resize((page.width * 48 // page.height, 48), Image.Resampling.BILINEAR)
    pixels = np.asarray(page, np.float32) + random.normal(0, 16, (48, page.width))
    scaled = np.clip(pixels, 0, 255) / 127.5 - 1
    return np.repeat(scaled[None, None], 3, axis=1).astype(np.float32)


def calibration() -> Iterator[dict[str, Any]]:
    """Yield inputs for --calibration: the lines at even places."""
    for number, text in enumerate(lines()[:256:2]):
        yield {"x": image(text, number)}


def read(session: Any) -> tuple[list[str], list[str]]:
    """Return lines at odd places, and what a model reads there."""
    characters = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    texts, answers = lines()[1:401:2], []
    for number, text in enumerate(texts):
        (scores,) = session.run(None, {"x": image(text, 10_000 + number)})
        best = scores[0].argmax(axis=1)
        # CTC: repeated classes are one character, and class 0 is none.
        kept = best[np.diff(best, prepend=0) != 0]
        answers.append("".join(characters[index] for index in kept))
    return texts, answers


def character_error_rate(session: Any) -> float:
    """Return the edits per character of the text, for --metric."""
    return float(jiwer.cer(*read(session)))


def word_error_rate(session: Any) -> float:
    """Return the edits per word of the text, for --metric."""
    return float(jiwer.wer(*read(session)))


def main() -> None:
    """Compress to 4.4 bits per weight and evaluate."""
    model = next(str(file.locate()) for file in files("rapidocr") or () if file.name == NAME)
    target = Target(bits=4.4)
    compress(model, "small.onnx", calibration=Calibration(calibration(), target=target))
    metrics = (character_error_rate, word_error_rate)
    print(evaluate("small.onnx", baseline=model, metric=metrics).to_csv())


if __name__ == "__main__":
    main()

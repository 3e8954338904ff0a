"""Detection: compress a YOLO detector, measure the boxes that it loses or invents.

    pip install --no-deps nudenet==3.4.2
    IMAGES=FOLDER python examples/detection.py

FOLDER holds photographs, searched recursively. See detection.md.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from qqonnx import Calibration, Target, compress, evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]

SIDE = 320
MIN_SCORE, MAX_OVERLAP = 0.25, 0.45


@cache
def photographs() -> list[Path]:
    """Return the images of the folder IMAGES."""
    found = Path(os.environ["IMAGES"]).rglob("*")
    return sorted(file for file in found if file.suffix.lower() in (".jpg", ".jpeg", ".png"))


def feed(file: Path) -> dict[str, Array]:
    """Return a photograph as the detector takes it: float32 [1, 3, 320, 320], within 0 and 1."""
    image = Image.open(file).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    canvas = Image.new("RGB", (SIDE, SIDE))
    canvas.paste(image)
    return {"images": np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / 255}


def calibration() -> Iterator[dict[str, Array]]:
    """Yield every second photograph, for --calibration."""
    yield from map(feed, photographs()[::2])


def overlaps(box: Array, boxes: Array) -> Array:
    """Return intersection over union of a box, [x, y, width, height], with others [n, 4]."""
    low = np.maximum(box[:2] - box[2:] / 2, boxes[:, :2] - boxes[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
    common = np.prod(np.maximum(high - low, 0), axis=1)
    return np.asarray(common / (box[2:].prod() + boxes[:, 2:].prod(axis=1) - common))


def detections(output: Array) -> list[tuple[int, Array]]:
    """Return class and box of each detection: the best of those that overlap."""
    boxes, scores = output[:4].T, output[4:].T
    best, classes = scores.max(axis=1), scores.argmax(axis=1)
    order = [i for i in np.argsort(-best, kind="stable") if best[i] > MIN_SCORE]
    kept: list[int] = []
    for i in order:
        if not (overlaps(boxes[i], boxes[kept]) > MAX_OVERLAP).any():
            kept.append(i)
    return [(int(classes[i]), boxes[i]) for i in kept]


def same_boxes(session: Any) -> list[float]:
    """Return the F1 score of the boxes of each other photograph, for --metric.

    The float model's boxes are the truth; photographs in which neither model finds anything are
    left out.
    """
    scores = []
    for file, expected in zip(photographs()[1::2], truth(), strict=True):
        left, count = list(expected), len(expected)
        found = detections(session.run(None, feed(file))[0][0])
        for kind, box in found:
            match = [
                i for i, (k, b) in enumerate(left) if k == kind and overlaps(box, b[None]) > 0.5
            ]
            if match:
                del left[match[0]]
        if found or count:
            scores.append(2 * (count - len(left)) / (len(found) + count))
    return scores


@cache
def truth() -> list[list[tuple[int, Array]]]:
    """Return the float model's detections in every other photograph."""
    import onnxruntime as ort

    session: Any = ort.InferenceSession(model())
    return [detections(session.run(None, feed(file))[0][0]) for file in photographs()[1::2]]


def model() -> str:
    """Return the file of the detector."""
    listed = files("nudenet") or ()
    return next(str(file.locate()) for file in listed if file.name == "320n.onnx")


def main() -> None:
    """Compress to 4.4 bits per weight and evaluate."""
    target = Target(bits=4.4)
    compress(model(), "small.onnx", calibration=Calibration(calibration(), target=target))
    print(evaluate("small.onnx", baseline=model(), metric=same_boxes).to_csv())


if __name__ == "__main__":
    main()

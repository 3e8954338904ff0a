"""Integer execution on the study's architectures, trained on small images.

    pip install "qqonnx[study,images]"
    python tools/bench_standins.py [NAME ...] [--out FOLDER] [--bits 4.4,8] [--write DOCUMENT ...]

Trains the models that FOLDER does not have, as `tools/train_reference.py` does. Training images
calibrate, and held-out images are evaluated. `--write` replaces the section "int8 stand-ins" of
documents.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import onnxruntime as ort
from bench_int8 import COLUMNS, cells, measured
from rich.progress import track
from sections import write_section

from qqonnx.integer.layers import form_of
from qqonnx.model.load import load
from qqonnx.study.data import digits
from qqonnx.study.models import reference_models

NAMES = ("mobilenet_v3_small", "mobilenet_v3_large", "googlenet", "resnet50")
LIMIT = 63
"""Largest absolute value of a level."""

SAMPLES = 200
"""Largest number of images that calibrate, and that are evaluated."""


def main() -> None:
    """Train, measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--out", type=Path, help="folder of the models (default: the study's)")
    parser.add_argument("--bits", default="4.4,8", help="bits per weight of the files")
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="documents")
    args = parser.parse_args()
    shown = [column for column in COLUMNS if column.short and column.name != "sentence_cosine"]
    lines = [f"| model | file | {' | '.join(column.title for column in shown)} |"]
    lines.append("|---|---|" + "---:|" * len(shown))
    counts = (0, 0)
    for model in track(reference_models(digits(), args.names, args.out), description="models"):
        rows, counts = measured(
            model.path,
            str(model.calibration),
            str(model.held_out),
            SAMPLES,
            form=form_of(load(model.path)) or "int8-static",
            bits=args.bits.split(","),
            limit=LIMIT,
        )
        for number, (label, row) in enumerate(rows.items()):
            texts = [model.label if not number else "", label, *cells(row, shown)]
            lines.append(f"| {' | '.join(texts)} |")
    text = (
        "\n".join(lines)
        + f"\n\nscikit-learn's digits, levels within ±{LIMIT}: calibrated with {counts[0]} "
        f"images, evaluated on {counts[1]} others. Run and load are times divided by the float "
        f"model's, one thread, one image. ONNX Runtime {ort.__version__}, {platform.system()} "
        f"{platform.machine()}.\n"
    )
    print(text)
    for document in args.write:
        write_section(document, "int8 stand-ins", text)


if __name__ == "__main__":
    main()

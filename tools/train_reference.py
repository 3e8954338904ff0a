"""Train the study's reference models: five torchvision architectures on small images.

    pip install "qqonnx[study,images]"
    python tools/train_reference.py [NAME ...] [--data FOLDER] [--out FOLDER]

`qqonnx study` trains missing models itself. This script only trains them, and prints the held-out
accuracy of each. The default images are scikit-learn's digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import Progress, TaskID

from qqonnx import evaluate
from qqonnx.study.data import digits, image_folder
from qqonnx.study.models import reference_models
from qqonnx.study.reference import IMAGE_SIZE, RECIPES


def main() -> None:
    """Train and print accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=", ".join(RECIPES), metavar="NAME")
    parser.add_argument("--data", type=Path, help="image folder with one folder per class")
    parser.add_argument("--out", type=Path, help="output folder (default: the study's cache)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(RECIPES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(RECIPES)}")
    images = image_folder(arguments.data, IMAGE_SIZE) if arguments.data else digits()
    with Progress() as bars:
        for name in arguments.names or RECIPES:
            task = bars.add_task(name)

            def show(_: str, steps: int, total: int, task: TaskID = task) -> None:
                bars.update(task, advance=steps, total=total)

            [model] = reference_models(images, [name], arguments.out, show)
            row = evaluate([model.path], model.held_out, threads=1).rows[0]
            print(f"{model.path}: {row.top1:.2%} of {row.samples} held-out images")


if __name__ == "__main__":
    main()

"""Train the bundled model: MobileNetV3-Small on scikit-learn's handwritten digits.

    pip install "qqonnx[train,images]"
    python tools/train_digits.py --out models/

Writes `digits_mobilenet_v3_small.onnx`, `digits_test.npz` (the held-out images) and `README.md`
(the model card with the figures of this run). Training is seeded: the same packages on the same
machine give the same files.
"""

from __future__ import annotations

import argparse
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small

from qqonnx.inputs.preprocessing import Preprocessing
from qqonnx.zoo import ExportReport, export_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 0
HELD_OUT = 360
PREPROCESSING = Preprocessing(
    resize=64, crop=64, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
AVERAGE_DECAY = 0.99

CARD = """\
# The bundled model

Written by `tools/train_digits.py`, figures included; do not edit.

| file | content |
|---|---|
| `digits_mobilenet_v3_small.onnx` | {parameters:,} parameters, opset {opset}, \
{file_bytes:,} bytes |
| `digits_test.npz` | {held_out} held-out images: `images` uint8 [{held_out}, 8, 8], \
`labels` int64 [{held_out}], {npz_bytes:,} bytes |

**Held-out accuracy: {correct} of {held_out} images, {accuracy:.2f} %**, measured in ONNX Runtime \
on the ONNX file.

## Model
torchvision's `mobilenet_v3_small` with unchanged architecture and 10 outputs. It classifies \
handwritten digits. Input `input`: float32 [batch, 3, {size}, {size}]. Output `logits`: \
float32 [batch, 10]. Batch normalization is folded into the convolutions.

The model is small enough to ship and accurate enough that damage by compression is visible. It is \
an example for this tool, not a digit reader for real use: it knows only one style of 8 by 8 pixel \
scans.

## Data
scikit-learn's `load_digits`: 1,797 images of 8 by 8 pixels, the test part of the UCI data set \
*Optical Recognition of Handwritten Digits* (E. Alpaydin, C. Kaynak, 1998, \
doi:10.24432/C50P49, license CC BY 4.0). Pixel values 0 to 16 are scaled to 0 to 255. \
{train:,} images are for training and {held_out} are held out, stratified by class with seed \
{seed}. The held-out images are used neither for training nor to choose an epoch: the last epoch \
is kept.

## Preprocessing
The file records the preprocessing (`qqonnx.preprocessing`), and training uses the same: gray to \
RGB, resize to {size} by {size} with Pillow's {interpolation} filter, scale to [0, 1], mean \
{mean}, std {std}.

## Training
`python tools/train_digits.py --out models/`: {epochs} epochs of AdamW (batch {batch}, one-cycle \
learning rate up to {learning_rate:g}, weight decay {weight_decay:g}, label smoothing 0.1). \
Augmentation: random rotations up to 15 degrees, scalings of 0.85 to 1.15 and shifts of one \
original pixel. The saved weights are the exponential moving average ({average_decay:g} per step), \
with batch statistics measured on the training images. Seed {seed}, two threads. The seed makes \
the result reproducible for one machine and set of package versions. Elsewhere the result may \
differ by an image or two.

Made with {packages} on {machine}.
"""


class Split(NamedTuple):
    """Images uint8 [n, 8, 8], 0 to 255, and labels int64 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_splits() -> tuple[Split, Split]:
    """Return the training part and the held-out part of scikit-learn's digits."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    return Split(images[train], labels[train]), Split(images[held_out], labels[held_out])


def preprocess(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32 [n, 3, size, size], preprocessed by `PREPROCESSING` with Pillow."""
    size = (PREPROCESSING.crop, PREPROCESSING.crop)
    resized = [
        Image.fromarray(image).convert("RGB").resize(size, Image.Resampling.BILINEAR)
        for image in images
    ]
    scaled = np.stack([np.asarray(image, np.float32) for image in resized]) / 255
    normalized = (scaled - np.asarray(PREPROCESSING.mean, np.float32)) / np.asarray(
        PREPROCESSING.std, np.float32
    )
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, scale and shift each image at random, with black borders."""
    n = len(images)
    angle, scale, dx, dy = (torch.rand((4, n), generator=generator) * 2 - 1).unbind()
    angle, scale = angle * math.radians(15), 1 + scale * 0.15
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # grid_sample's coordinates run from -1 to 1, so one of the 8 original pixels is 1/4.
    rows = [torch.stack([cos, -sin, dx / 4], 1), torch.stack([sin, cos, dy / 4], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    # Padding is 0, but black is (0 - mean) / std = -1.
    return nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1


def train(split: Split, epochs: int) -> nn.Module:
    """Train from random weights; return a model with the moving average of the weights."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, labels = torch.from_numpy(preprocess(split.images)), torch.from_numpy(split.labels)
    # Depthwise convolutions train twice as fast on a CPU with channels last.
    model = mobilenet_v3_small(num_classes=10).to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        model,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE_DECAY),  # type: ignore[no-untyped-call]
    )
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, epochs=epochs, steps_per_epoch=steps
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(epochs):
        order, total = torch.randperm(len(images), generator=generator), 0.0
        for batch in torch.split(order[: steps * BATCH], BATCH):
            loss = loss_of(model(augment(images[batch], generator)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.item()
        print(f"epoch {epoch + 1:3d} of {epochs}: training loss {total / steps:.4f}", flush=True)
    # The averaged weights need batch normalization statistics of their own.
    torch.optim.swa_utils.update_bn(torch.split(images, BATCH), average)
    module: nn.Module = average.module
    return module.to(memory_format=torch.contiguous_format)


def count_correct(path: Path, split: Split) -> int:
    """Return the number of images that the ONNX model at `path` classifies correctly."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": preprocess(split.images)})[0]
    return int((logits.argmax(1) == split.labels).sum())


def card(report: ExportReport, train_images: int, correct: int, npz: Path, epochs: int) -> str:
    """Return the text of the model card."""
    packages = ("torch", "torchvision", "scikit-learn", "pillow", "onnxruntime")
    return CARD.format(
        parameters=report.parameters,
        file_bytes=report.file_bytes,
        opset=report.opset,
        held_out=HELD_OUT,
        npz_bytes=npz.stat().st_size,
        correct=correct,
        accuracy=100 * correct / HELD_OUT,
        size=PREPROCESSING.crop,
        train=train_images,
        seed=SEED,
        interpolation=PREPROCESSING.interpolation,
        mean=PREPROCESSING.mean[0],
        std=PREPROCESSING.std[0],
        epochs=epochs,
        batch=BATCH,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        average_decay=AVERAGE_DECAY,
        packages=", ".join(f"{name} {version(name)}" for name in packages),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def main() -> None:
    """Train, export, and write the model card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=80)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)

    training, held_out = load_splits()
    model = train(training, arguments.epochs)
    npz = out / "digits_test.npz"
    np.savez_compressed(npz, images=held_out.images, labels=held_out.labels)
    report = export_module(
        model,
        out / "digits_mobilenet_v3_small.onnx",
        preprocessing=PREPROCESSING,
        source="tools/train_digits.py mobilenet_v3_small, scikit-learn digits",
    )
    correct = count_correct(report.path, held_out)
    text = card(report, len(training.labels), correct, npz, arguments.epochs)
    (out / "README.md").write_text(text, encoding="utf-8")
    print(f"held out: {correct} of {HELD_OUT} correct, {100 * correct / HELD_OUT:.2f} %")
    print(f"wrote {report.path} ({report.file_bytes:,} bytes), {npz}, {out / 'README.md'}")


if __name__ == "__main__":
    main()

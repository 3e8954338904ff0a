"""Reference models: torchvision architectures trained on small images and written as ONNX.

Only the number of outputs differs from torchvision's architectures. The images have 32 by 32
pixels. Training is seeded: the same packages on the same machine give the same files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.extras import import_extra
from qqonnx.inputs.preprocessing import Preprocessing, apply
from qqonnx.zoo import export_module

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from qqonnx.study.data import ImageSet, Split

SEED = 0
IMAGE_SIZE = 32
PREPROCESSING = Preprocessing(
    resize=IMAGE_SIZE,
    crop=IMAGE_SIZE,
    interpolation="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
BATCH = 64
WEIGHT_DECAY = 1e-2
AVERAGE_DECAY = 0.98
LABEL_SMOOTHING = 0.1


@dataclass(frozen=True)
class Recipe:
    """The training settings of one architecture.

    Attributes:
        label: the label in figures.
        epochs: the number of epochs.
        learning_rate: the maximum of the one-cycle schedule.
        arguments: arguments of torchvision's constructor.
    """

    label: str
    epochs: int
    learning_rate: float
    arguments: dict[str, Any]


RECIPES = {
    "resnet18": Recipe("ResNet-18", 24, 2e-3, {}),
    "resnet50": Recipe("ResNet-50", 24, 1e-3, {}),
    "mobilenet_v3_small": Recipe("MobileNetV3-Small", 60, 3e-3, {}),
    "mobilenet_v3_large": Recipe("MobileNetV3-Large", 40, 3e-3, {}),
    "googlenet": Recipe(
        "GoogLeNet", 24, 2e-3, {"aux_logits": False, "init_weights": True, "dropout": 0.2}
    ),
}
"""The study's architectures by torchvision's names."""

Progress = Callable[[int, int], None]
"""Called with the steps just done and the number of all steps."""


def recipe_text(name: str) -> str:
    """Return all training settings of `name` as text."""
    settings = (SEED, BATCH, WEIGHT_DECAY, AVERAGE_DECAY, LABEL_SMOOTHING, PREPROCESSING)
    return repr((name, RECIPES[name], settings))


def train_reference(
    name: str, images: ImageSet, output: Path, progress: Progress = lambda *_: None
) -> None:
    """Train the architecture `name` of `RECIPES` and write it as ONNX.

    Args:
        name: a key of `RECIPES`.
        images: the images; only the training images are used.
        output: the file to write.
        progress: called after each step.

    Raises:
        QqonnxError: PyTorch or torchvision is not installed, or the export fails.
    """
    recipe = RECIPES[name]
    torch = import_extra("torch", "study")
    models = import_extra("torchvision.models", "study")
    # Sums depend on the number of threads. Models are trained in parallel processes instead.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = models.get_model(name, weights=None, num_classes=images.classes, **recipe.arguments)
    try:
        module = _train(model, recipe, images.training, progress)
    finally:
        torch.set_num_threads(threads)
    source = f"qqonnx study: {name} trained on {images.name}"
    export_module(module, output, preprocessing=PREPROCESSING, source=source)


def preprocess(split: Split) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the images as float32 [n, 3, size, size], preprocessed as in evaluation."""
    image_module = import_extra("PIL.Image", "images")
    return np.stack([apply(image_module.fromarray(image), PREPROCESSING) for image in split.images])


def _train(model: nn.Module, recipe: Recipe, split: Split, progress: Progress) -> nn.Module:
    """Train `model`; return the model with the moving average of the weights."""
    torch = import_extra("torch", "study")
    generator = torch.Generator().manual_seed(SEED)
    # Convolutions train faster on a CPU with channels last.
    model = model.to(memory_format=torch.channels_last)
    images = torch.from_numpy(preprocess(split)).to(memory_format=torch.channels_last)
    labels = torch.from_numpy(split.labels)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE_DECAY)
    )
    steps = max(len(images) // BATCH, 1)
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, epochs=recipe.epochs, steps_per_epoch=steps
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    model.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: steps * BATCH].split(BATCH):
            loss = loss_of(model(_augmented(images[batch], generator)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            progress(1, steps * recipe.epochs)
    # The averaged weights need batch normalization statistics of their own.
    torch.optim.swa_utils.update_bn(images.split(BATCH), average)
    module: nn.Module = average.module
    return module.to(memory_format=torch.contiguous_format)


def _augmented(images: Tensor, generator: Any) -> Tensor:
    """Rotate, scale and shift each image at random, with black borders."""
    torch = import_extra("torch", "study")
    functional = torch.nn.functional
    angle, scale, dx, dy = (torch.rand((4, len(images)), generator=generator) * 2 - 1).unbind()
    angle, scale = angle * math.radians(10), 1 + scale * 0.1
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # grid_sample's coordinates run from -1 to 1, so shifts are at most an eighth of the side.
    rows = [torch.stack([cos, -sin, dx / 4], 1), torch.stack([sin, cos, dy / 4], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    # Padding is 0, but black is (0 - mean) / std = -1.
    shifted: Tensor = functional.grid_sample(images + 1, grid, align_corners=False) - 1
    return shifted

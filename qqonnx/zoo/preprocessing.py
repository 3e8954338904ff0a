"""The preprocessing that a model's weights were trained with, as it travels in the ONNX file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

PREPROCESSING_KEY = "qqonnx.preprocessing"
"""Key in the ONNX model's metadata_props; its value is `ImagePreprocessing.to_json()`."""

SOURCE_KEY = "qqonnx.source"
"""Key in the ONNX model's metadata_props; its value says where the weights come from."""


@dataclass(frozen=True)
class ImagePreprocessing:
    """RGB image -> float32 NCHW: resize, center crop, scale to [0, 1], normalize per channel.

    Attributes:
        resize: Length in pixels that the image's shorter side is resized to.
        crop: Side in pixels of the square cut from the center.
        interpolation: "nearest", "bilinear" or "bicubic", antialiased as Pillow does.
        mean: Subtracted from each channel, after scaling to [0, 1].
        std: Divides each channel, after the mean is subtracted.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scaled_to(self, crop: int) -> ImagePreprocessing:
        """Return the same preprocessing for images of side `crop`, resize in proportion."""
        return replace(self, resize=round(self.resize * crop / self.crop), crop=crop)

    def to_json(self) -> str:
        """Return a compact JSON object with the fields of this class, in their order."""
        return json.dumps(asdict(self), separators=(",", ":"))


def of_transforms(transforms: Any) -> ImagePreprocessing:
    """Read a torchvision `ImageClassification` preset, such as `weights.transforms()`."""
    return ImagePreprocessing(
        resize=int(transforms.resize_size[0]),
        crop=int(transforms.crop_size[0]),
        interpolation=str(transforms.interpolation.value),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )

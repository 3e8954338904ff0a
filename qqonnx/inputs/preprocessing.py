"""Preprocessing of images; `qqonnx export` records it in the model's metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from PIL.Image import Image

PREPROCESSING_KEY = "qqonnx.preprocessing"
"""Key in the model's metadata properties; its value is `Preprocessing.to_json()`."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

MAX_PIXELS = 2**27
"""Largest number of pixels after resizing: the long side of a narrow strip grows in proportion."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, scale to [0, 1], normalize: torchvision's `ImageClassification` on Pillow.

    Attributes:
        resize: length of the image's shorter side in pixels.
        crop: side of the centered square in pixels.
        interpolation: "nearest", "bilinear" or "bicubic", Pillow's filters.
        mean: mean of each channel, which is subtracted; one entry for grayscale images.
        std: standard deviation of each channel, by which pixels are divided.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scaled_to(self, crop: int) -> Preprocessing:
        """Return the same preprocessing for images of side `crop`, resized in proportion."""
        return replace(self, resize=round(self.resize * crop / self.crop), crop=crop)

    def to_json(self) -> str:
        """Return the compact JSON that `from_json` reads."""
        return json.dumps(asdict(self), separators=(",", ":"))


def from_json(text: str) -> Preprocessing:
    """Read a preprocessing from JSON.

    Example:
        >>> gray = Preprocessing(32, 28, "bilinear", mean=(0.5,), std=(0.5,))
        >>> from_json(gray.to_json()) == gray
        True

    Raises:
        QqonnxError: a field is missing, unknown or out of range.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        preprocessing = Preprocessing(
            int(fields.pop("resize")),
            int(fields.pop("crop")),
            str(fields.pop("interpolation")),
            tuple(map(float, fields.pop("mean"))),
            tuple(map(float, fields.pop("std"))),
        )
    except KeyError as error:
        raise QqonnxError(f"preprocessing: field {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise QqonnxError(f"preprocessing: invalid JSON: {error}") from error
    if fields:
        raise QqonnxError(f"preprocessing: unknown field {next(iter(fields))!r}")
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise QqonnxError(f"preprocessing: interpolation is one of {', '.join(INTERPOLATIONS)}")
    mean, std = preprocessing.mean, preprocessing.std
    if len(mean) not in (1, 3) or len(mean) != len(std) or 0 in std:
        raise QqonnxError("preprocessing: mean and std have 1 or 3 entries, and std is never 0")
    if not 1 <= preprocessing.crop <= preprocessing.resize:
        raise QqonnxError("preprocessing: crop is at least 1 and at most resize")
    return preprocessing


def for_model(metadata: Mapping[str, str], size: int | None) -> tuple[Preprocessing, str]:
    """Return a model's preprocessing and a phrase that says where it comes from.

    Args:
        metadata: metadata properties of the model.
        size: height and width of the model's input, if fixed.
    """
    if PREPROCESSING_KEY in metadata:
        return from_json(metadata[PREPROCESSING_KEY]), "the model's metadata"
    crop = size or 224
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    default = Preprocessing(round(crop * 256 / 224), crop, "bilinear", mean, std)
    return default, "ImageNet's usual one, as the model's metadata have none"


def apply(image: Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return a Pillow image as float32 [channels, crop, crop].

    Raises:
        QqonnxError: the resized image would have more than `MAX_PIXELS`.
    """
    from PIL import Image as Pillow

    image = image.convert("RGB" if len(preprocessing.mean) == 3 else "L")
    width, height = image.size
    short = min(width, height)
    # torchvision truncates the longer side to a whole pixel.
    size = [int(preprocessing.resize * side / short) for side in (width, height)]
    if size[0] * size[1] > MAX_PIXELS:
        raise QqonnxError(f"an image of {width} by {height} pixels is too long to be resized")
    resampling = Pillow.Resampling[preprocessing.interpolation.upper()]
    image = image.resize((size[0], size[1]), resampling)
    left, top = (round((side - preprocessing.crop) / 2) for side in size)
    image = image.crop((left, top, left + preprocessing.crop, top + preprocessing.crop))
    pixels = np.asarray(image, np.float32).reshape(preprocessing.crop, preprocessing.crop, -1)
    mean, std = (np.array(x, np.float32) for x in (preprocessing.mean, preprocessing.std))
    return np.ascontiguousarray(((pixels / 255 - mean) / std).transpose(2, 0, 1))

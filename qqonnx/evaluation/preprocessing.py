"""How an image becomes a model's input; `qqonnx export` records it in the model."""

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
"""Largest image after resizing: a strip one pixel wide would become as wide as the crop."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, scale to [0, 1], normalize: torchvision's `ImageClassification` on Pillow.

    Attributes:
        resize: length of the image's shorter side in pixels.
        crop: side of the centered square in pixels.
        interpolation: "nearest", "bilinear" or "bicubic", Pillow's filters.
        mean: subtracted, for each channel; one entry means gray images.
        std: divided by, for each channel.
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
        found = Preprocessing(
            int(fields.pop("resize")),
            int(fields.pop("crop")),
            str(fields.pop("interpolation")),
            tuple(map(float, fields.pop("mean"))),
            tuple(map(float, fields.pop("std"))),
        )
    except KeyError as error:
        raise QqonnxError(f"preprocessing: field {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise QqonnxError(f"preprocessing: not the JSON expected: {error}") from error
    if fields:
        raise QqonnxError(f"preprocessing: unknown field {next(iter(fields))!r}")
    if found.interpolation not in INTERPOLATIONS:
        raise QqonnxError(f"preprocessing: interpolation is one of {', '.join(INTERPOLATIONS)}")
    if len(found.mean) not in (1, 3) or len(found.mean) != len(found.std) or 0 in found.std:
        raise QqonnxError("preprocessing: mean and std have 1 or 3 entries, std none of 0")
    if not 1 <= found.crop <= found.resize:
        raise QqonnxError("preprocessing: crop is at least 1 and at most resize")
    return found


def for_model(metadata: Mapping[str, str], size: int | None) -> tuple[Preprocessing, str]:
    """Return a model's preprocessing and where it comes from.

    Args:
        metadata: the model's metadata properties.
        size: side of its input images, if fixed.
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
        QqonnxError: resized it would have more than `MAX_PIXELS`.
    """
    from PIL import Image as Pillow

    image = image.convert("RGB" if len(preprocessing.mean) == 3 else "L")
    width, height = image.size
    short = min(width, height)
    # torchvision cuts the longer side down to a whole pixel.
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

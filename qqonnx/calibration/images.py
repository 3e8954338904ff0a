"""Synthetic photographs for models that take images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.synthetic import dead_leaves
from qqonnx.inputs.feeds import numpy_type
from qqonnx.inputs.images import as_input, image_shape
from qqonnx.inputs.preprocessing import for_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray


def synthetic_images(
    model: ir.Model, declared: Sequence[ir.Value], count: int
) -> NDArray[Any] | None:
    """Return synthetic photographs as the model's input; None if it takes no images."""
    image = image_shape(declared)
    if image is None or numpy_type(declared[0]).kind != "f":
        return None
    channels_last, side = image
    preprocessing, _ = for_model(model.metadata_props, side)
    shape = declared[0].shape
    assert shape is not None
    if len(preprocessing.mean) != (shape[3] if channels_last else shape[1]):
        return None
    random = np.random.default_rng(0)
    mean, std = (
        np.array(entry, np.float32)[:, None, None]
        for entry in (preprocessing.mean, preprocessing.std)
    )
    crop = preprocessing.crop
    images = [(dead_leaves(crop, crop, len(mean), random) - mean) / std for _ in range(count)]
    return as_input(np.stack(images), declared[0], channels_last)

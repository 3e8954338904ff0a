"""What the rounding of activations took out of a model, in the model's metadata.

ONNX Runtime's quantizer leaves out a Relu or a Clip where the range of the rounded activation does
the same. The record is JSON, with the bounds of each value that was clipped: `{NAME: [0, null]}`
for a Relu.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    Bounds = tuple[float | None, float | None]

ROUNDED_KEY = "qqonnx-rounded"
"""Key of the record in the metadata properties of every model with rounded activations."""


def write_bounds(model: ir.Model, bounds: Mapping[str, Bounds]) -> None:
    """Write the bounds of clipped values, by name."""
    model.metadata_props[ROUNDED_KEY] = json.dumps(bounds, separators=(",", ":"))


def take_bounds(model: ir.Model) -> dict[str, Bounds] | None:
    """Remove the record and return the bounds; None if no activation was rounded.

    Raises:
        QqonnxError: the record is damaged.
    """
    text = model.metadata_props.pop(ROUNDED_KEY, None)
    if text is None:
        return None
    try:
        bounds = {name: (low, high) for name, (low, high) in json.loads(text).items()}
        if not all(isinstance(b, int | float | None) for pair in bounds.values() for b in pair):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise QqonnxError(f"its metadata {ROUNDED_KEY!r} is damaged") from error
    return bounds

"""The plan file: the allocation of levels as JSON, which users can read and edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.encoding.packing import storage_for
from qqonnx.errors import QqonnxError
from qqonnx.model.save import staged

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from qqonnx.calibration.allocation import Allocation
    from qqonnx.calibration.matrices import WeightMatrix


def write_plan(path: str | os.PathLike[str], allocation: Allocation) -> None:
    """Write an allocation as JSON.

    Raises:
        QqonnxError: the file cannot be written.
    """
    weights: dict[str, Any] = {
        name: {
            "levels": choice.levels,
            "bits": round(storage_for(choice.levels).bits_per_weight, 3),
            "granularity": "scale" if choice.scaled else "tensor",
        }
        for name, choice in allocation.items()
    }
    text = json.dumps({"weights": weights}, indent=1, ensure_ascii=False) + "\n"
    with staged(Path(path)) as written:
        written.write_text(text, "utf-8")


def read_plan(path: str | os.PathLike[str], matrices: Sequence[WeightMatrix]) -> Allocation:
    """Read the allocation of the weights; the field `bits` is ignored.

    Raises:
        QqonnxError: the file cannot be read, does not match the weights, or has invalid levels or
            an invalid granularity.
    """
    try:
        weights = dict(json.loads(Path(path).read_text("utf-8"))["weights"])
    except FileNotFoundError as error:
        text = (
            "no such file; a plan is written with a target, such as --target-bits, and read without"
        )
        raise QqonnxError(f"{path}: {text}") from error
    except OSError as error:
        raise QqonnxError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise QqonnxError(f"{path}: not a plan file") from error
    allocation: Allocation = {}
    for weight in matrices:
        entry = weights.pop(weight.name, None)
        if not isinstance(entry, dict):
            raise QqonnxError(f"{path}: has no weight {weight.name!r}")
        levels, granularity = entry.get("levels"), entry.get("granularity")
        if not isinstance(levels, int) or not 2 <= levels <= 256:
            raise QqonnxError(f"{path}: weight {weight.name!r}: levels must be 2 to 256")
        if granularity not in ("scale", "tensor"):
            raise QqonnxError(
                f"{path}: weight {weight.name!r}: granularity must be scale or tensor"
            )
        scaled = granularity == "scale" and weight.can_scale
        allocation[weight.name] = weight.choice(levels, scaled=scaled)
    if weights:
        raise QqonnxError(f"{path}: the model has no weight {next(iter(weights))!r}")
    return allocation

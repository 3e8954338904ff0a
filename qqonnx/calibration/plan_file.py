"""The allocation of levels as a JSON file, for people to read and edit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qqonnx.encoding.packing import storage_for
from qqonnx.errors import QqonnxError
from qqonnx.model.save import staged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qqonnx.calibration.allocation import Allocation
    from qqonnx.calibration.subject import Subject


def write_plan(path: Path, at: Allocation) -> None:
    """Write the allocation as JSON, for people to read and edit.

    Raises:
        QqonnxError: the file cannot be written.
    """
    weights: dict[str, Any] = {
        name: {
            "levels": levels,
            "bits": round(storage_for(levels).bits_per_weight, 3),
            "granularity": "scale" if scaled else "tensor",
        }
        for name, (levels, scaled) in at.items()
    }
    text = json.dumps({"weights": weights}, indent=1, ensure_ascii=False) + "\n"
    with staged(path) as written:
        written.write_text(text, "utf-8")


def read_plan(path: Path, found: Sequence[Subject]) -> Allocation:
    """Read an allocation; `bits` is for people and not read.

    Raises:
        QqonnxError: the file cannot be read, or does not name every weight with levels that
            there are.
    """
    try:
        weights = dict(json.loads(path.read_text("utf-8"))["weights"])
    except OSError as error:
        raise QqonnxError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise QqonnxError(f"{path}: not a plan as --plan writes it") from error
    at: Allocation = {}
    for subject in found:
        entry = weights.pop(subject.name, None)
        if not isinstance(entry, dict):
            raise QqonnxError(f"{path}: has no weight {subject.name!r}")
        levels, granularity = entry.get("levels"), entry.get("granularity")
        if not isinstance(levels, int) or not 2 <= levels <= 256:
            raise QqonnxError(f"{path}: weight {subject.name!r}: levels are 2 to 256")
        if granularity not in ("scale", "tensor"):
            raise QqonnxError(f"{path}: weight {subject.name!r}: granularity is scale or tensor")
        at[subject.name] = levels, granularity == "scale" and subject.can_scale
    if weights:
        raise QqonnxError(f"{path}: the model has no weight {next(iter(weights))!r}")
    return at

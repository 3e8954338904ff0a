"""Names of compressed files that a loader finds by a data type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qqonnx.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = {
    "q8": "_quantized",
    "int8": "_int8",
    "uint8": "_uint8",
    "q4": "_q4",
    "q2": "_q2",
    "q1": "_q1",
    "bnb4": "_bnb4",
}
"""Suffix of the file that transformers.js loads for a `dtype`.

The list is `DEFAULT_DTYPE_SUFFIX_MAPPING` of transformers.js (4.3.1, src/utils/dtypes.js), without
those types that stand for float16 caches beside the weights, which our files do not have.
"""

_HALF = ("_fp16", "_q4f16", "_q2f16", "_q1f16")


def suffix_of(name: str) -> str:
    """Return the suffix of a name: that of a `dtype`, or the name itself if it starts with _ or -.

    Raises:
        OptionError: the name is neither.
    """
    if name in SUFFIXES:
        return SUFFIXES[name]
    if re.fullmatch(r"[_-][\w.-]+", name) and name not in _HALF:
        return name
    raise OptionError(
        "name", f"must be one of {', '.join(SUFFIXES)}, or a suffix such as _small, not {name!r}"
    )


def is_variant(path: Path, suffix: str) -> bool:
    """Return whether a file is named as the variant of another model, such as model_fp16.onnx."""
    return path.stem.endswith((*SUFFIXES.values(), *_HALF, suffix))


def renamed(path: Path, suffix: str) -> Path:
    """Return the path with the suffix at the end of the file's stem."""
    return path.with_name(f"{path.stem}{suffix}{path.suffix}")


def data_name(model: str, data: tuple[str, ...], output: str) -> str | None:
    """Return the name of the output's external data; None for the usual one.

    A loader looks for external data by the model's name, such as model.onnx_data, so the output
    keeps that form.

    Args:
        model: file name of the model.
        data: file names of its external data.
        output: file name of the output.
    """
    for name in data:
        if name.startswith(model):
            return output + name.removeprefix(model)
    return None

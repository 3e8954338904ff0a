"""Graph simplification with onnxsim: before compressing, never after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from qqonnx.errors import QqonnxError
from qqonnx.extras import import_extra

if TYPE_CHECKING:
    from pathlib import Path


def simplify(model: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    """Return the model with constants folded and redundant nodes removed by onnxsim.

    For models that are still plain floats: on a compressed model it would fold the decode nodes
    and bring the float weights back.

    Args:
        model: A model, or the path of one (at most 2 GB). It is not modified.

    Raises:
        QqonnxError: onnxsim is not installed, or fails on the model.
    """
    onnxsim = import_extra("onnxsim", "export")
    where = "the model" if isinstance(model, onnx.ModelProto) else str(model)
    try:
        loaded = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
        simplified, same = onnxsim.simplify(loaded)
    except Exception as error:  # onnxsim raises whatever its C++ core does
        reason = " ".join(str(error).split())[:200]
        raise QqonnxError(f"{where}: onnxsim cannot simplify it: {reason}") from error
    if not same:
        raise QqonnxError(f"{where}: onnxsim's result does not compute the same outputs")
    result: onnx.ModelProto = simplified
    return result

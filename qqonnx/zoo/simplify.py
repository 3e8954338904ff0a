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

    Only for float models: in a compressed model, onnxsim would fold the decode nodes and restore
    the float weights.

    Args:
        model: A model or its path, at most 2 GB. It is not modified.

    Raises:
        QqonnxError: onnxsim is not installed, or it fails on the model.
    """
    onnxsim = import_extra("onnxsim", "export")
    name = "the model" if isinstance(model, onnx.ModelProto) else str(model)
    try:
        loaded = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
        simplified, same = onnxsim.simplify(loaded)
    except Exception as error:  # onnxsim raises errors of many types
        reason = " ".join(str(error).split())[:200]
        raise QqonnxError(f"{name}: onnxsim cannot simplify it: {reason}") from error
    if not same:
        raise QqonnxError(f"{name}: the outputs of onnxsim's result differ")
    result: onnx.ModelProto = simplified
    return result

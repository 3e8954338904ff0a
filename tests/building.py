"""Arrays and tensors for test models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

Build = Callable[..., Path]
"""ONNX text and arrays for its initializers -> a file."""


def tensor_of(array: np.ndarray, name: str) -> onnx.TensorProto:
    if array.dtype == ml_dtypes.bfloat16:
        kind = onnx.TensorProto.BFLOAT16
        return onnx.helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)
    return numpy_helper.from_array(array, name)


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def package_modules() -> list[str]:
    """Return the name of every module of the package, sorted."""
    root = Path(__file__).parent.parent
    files = (root / "qqonnx").rglob("*.py")
    parts = (file.relative_to(root).with_suffix("").parts for file in files)
    return sorted(".".join(part).removesuffix(".__init__") for part in parts)

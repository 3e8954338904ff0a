"""What an operator is, and the types that tensors have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

Attributes = Mapping[str, Any]

Operator = Callable[..., Any]
"""(attributes, *inputs) -> a tensor, or a tuple of tensors."""

DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,
    11: torch.float32,
    16: torch.float32,
}
"""ONNX data type -> PyTorch's; all floats are float32, see `tensor_of`."""


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor of its own memory.

    Floats of other widths become float32: a CPU multiplies 16 bits slowly, gradients need the
    range, and what is tuned is float32.

    Raises:
        NotImplementedError: PyTorch has no such type (strings).
    """
    if array.dtype.name in ("bfloat16", "float16", "float64"):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise NotImplementedError(f"type {array.dtype.name}")
    return torch.from_numpy(np.array(array, order="C"))

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
    11: torch.float64,
    16: torch.float32,
}
"""ONNX data type -> PyTorch's; 16-bit floats (10, 16) are widened, see `tensor_of`."""


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor of its own memory.

    16-bit floats become float32: a CPU multiplies them slowly, and gradients need the range.

    Raises:
        NotImplementedError: PyTorch has no such type (strings).
    """
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise NotImplementedError(f"type {array.dtype.name}")
    return torch.from_numpy(np.array(array, order="C"))

"""The type of an operator, and the conversion of arrays to tensors."""

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
"""PyTorch's data types by ONNX's; all floats become float32, see `tensor_of`."""


def plain(function: Callable[..., torch.Tensor]) -> Operator:
    """Return a PyTorch function as an operator without attributes."""
    return lambda _attributes, *inputs: function(*inputs)


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """Return a copy of an array as a tensor.

    Floats of other widths become float32. The parameters are float32, gradients need its range, and
    a CPU is slow with 16-bit floats.

    Raises:
        NotImplementedError: PyTorch has no such type (strings).
    """
    if array.dtype.name in ("bfloat16", "float16", "float64"):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise NotImplementedError(f"type {array.dtype.name}")
    return torch.from_numpy(np.array(array, order="C"))

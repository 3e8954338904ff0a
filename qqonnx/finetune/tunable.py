"""A quantized weight as input and output of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qqonnx.encoding.packing import Indices


@dataclass(frozen=True)
class TunableWeight:
    """A quantized weight.

    Attributes:
        name: name of the weight's initializer.
        shape: shape of the weight.
        indices: uint8, of the weight's shape.
        levels: float32 [k], strictly ascending.
        scales: float32 [channels] along `channel_axis`, or None.
        channel_axis: axis of the channels; None without scales.
    """

    name: str
    shape: tuple[int, ...]
    indices: Indices
    levels: NDArray[np.float32]
    scales: NDArray[np.float32] | None
    channel_axis: int | None

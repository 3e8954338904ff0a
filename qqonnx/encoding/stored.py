"""The three stored forms of a weight: codebook, float16, and blocks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from qqonnx.codebooks import Distortion, Weights
    from qqonnx.encoding.blocks import Blocks
    from qqonnx.encoding.packing import Plane, Storage

FLOAT16 = "float16"
"""Method of a tensor that is rounded to float16."""

FEEDBACK = "kmeans+feedback"
"""Method of a weight that was quantized by error feedback (GPTQ)."""

BLOCK = "block"
"""Granularity of a weight that MatMulNBits decodes."""


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """The part that all stored forms have in common.

    Attributes:
        name: the weight's name; see `qqonnx.model.select.Weight`.
        shape: shape of the decoded weight.
        dtype: dtype of the decoded weight; int8 or uint8 if its levels are integers.
        method: name of the codebook method, or `FLOAT16`.
        granularity: "tensor", "channel", "scale" or `BLOCK`.
        levels: number of levels of a codebook.
        bits: bits per weight of the packed indices, or of the rounded values.
        counts: number of occurrences of each index, summed over channels: integers [levels] or
            shorter.
        error: error of the decoded values.
        payload_bytes: bytes of indices, codebooks and scales.
        digest: function that returns the SHA-256 of the bytes of the decoded values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: ir.DataType
    method: str
    granularity: str
    levels: int
    bits: float
    counts: NDArray[np.integer[Any]]
    error: Distortion
    payload_bytes: int
    digest: Callable[[], bytes]

    @property
    def bytes_before(self) -> int:
        """Bytes of the weight before it was compressed."""
        # Integers with scales were floats; without, the model had the integers and their scales.
        was_float = self.dtype == ir.DataType.INT8 and self.granularity == "scale"
        return int(prod(self.shape) * (4 if was_float else self.dtype.itemsize))


@dataclass(frozen=True, kw_only=True)
class CodebookWeight(StoredWeight):
    """A weight stored as packed indices, a codebook, and optional scales.

    If the levels are integers, the weight decodes to int8, or to uint8 if the model had uint8. Its
    scales are then no part of the stored form: nodes behind the decoded weight apply them; see
    `qqonnx.integer`.

    Attributes:
        channel_axis: axis of the output channels; None with granularity "tensor", and for a weight
            that was read from a file.
        storage: layout of the packed indices.
        planes: the packed indices in C order of the weight, the byte plane first.
        codebook: [levels], or [channels, levels] with granularity "channel", in the weight's dtype.
        scales: [channels] with granularity "scale", in the weight's dtype or float16; else None.
            With integer levels float32, and None for a weight that was read from a file.
    """

    channel_axis: int | None
    storage: Storage
    planes: tuple[Plane, ...]
    codebook: Weights
    scales: Weights | None

    @property
    def is_integer(self) -> bool:
        """Whether the levels are integers."""
        return self.codebook.dtype.kind in "iu"


@dataclass(frozen=True, kw_only=True)
class RoundedWeight(StoredWeight):
    """A small tensor, such as a bias, stored as float16.

    Attributes:
        values: the rounded values, float16, of the weight's shape.
    """

    values: Weights


@dataclass(frozen=True, kw_only=True)
class BlockWeight(StoredWeight):
    """A weight [K, N] stored in blocks along K for MatMulNBits.

    Attributes:
        blocks: codes, scales and zero points.
    """

    blocks: Blocks


def digest(values: Weights) -> bytes:
    """Return the SHA-256 of the bytes of `values` in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).digest()

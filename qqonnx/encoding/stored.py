"""A weight as a file stores it, in each of the three forms that there are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.codebooks import Distortion, Weights
    from qqonnx.encoding.blocks import Blocks
    from qqonnx.encoding.packing import Plane, Storage

FLOAT16 = "float16"
"""Method of a tensor that is rounded to float16 instead of quantized."""

BLOCK = "block"
"""Granularity of a weight that MatMulNBits decodes."""


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """What every form has in common.

    Attributes:
        name: the weight's name; see `qqonnx.model.select.Weight`.
        shape: shape of the decoded weight.
        dtype: dtype of the decoded weight.
        method: name of the codebook method, or `FLOAT16`.
        granularity: "tensor", "channel", "scale" or `BLOCK`.
        levels: number of levels of a codebook.
        bits: bits of index stored per weight.
        counts: how often each index occurs, int64 [levels] or shorter; with a codebook per channel,
            the sum over the channels.
        error: error of the decoded values.
        payload_bytes: bytes of indices, codebooks and scales.
        digest: function that returns the SHA-256 of the decoded values' bytes.
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
    def float_bytes(self) -> int:
        """Bytes of the weight as floats."""
        return int(prod(self.shape) * self.dtype.itemsize)


@dataclass(frozen=True, kw_only=True)
class CodebookWeight(StoredWeight):
    """A weight stored as packed indices, a codebook, and scales if it has them.

    Attributes:
        channel_axis: axis of the output channels; None without a codebook or a scale per channel,
            and for a weight that was read from a file.
        storage: layout of the packed indices.
        planes: the packed indices in C order of the weight, the byte plane first.
        codebook: [levels], or [channels, levels] with granularity "channel", in the weight's dtype.
        scales: [channels] with granularity "scale", in the weight's dtype or float16; else None.
    """

    channel_axis: int | None
    storage: Storage
    planes: tuple[Plane, ...]
    codebook: Weights
    scales: Weights | None


@dataclass(frozen=True, kw_only=True)
class RoundedWeight(StoredWeight):
    """A small tensor, such as a bias, stored as float16.

    Attributes:
        values: float16, of the weight's shape.
    """

    values: Weights


@dataclass(frozen=True, kw_only=True)
class BlockWeight(StoredWeight):
    """A weight [K, N] stored in blocks along K, as MatMulNBits takes it.

    Attributes:
        blocks: codes, scales and zero points.
    """

    blocks: Blocks


def digest(values: Weights) -> bytes:
    """Return the SHA-256 of the values' bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).digest()

"""Quantization in blocks for ONNX Runtime's operator MatMulNBits.

The levels are uniform. Each block of `BLOCK_LENGTH` weights along the inner dimension has a scale
and a zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_LENGTH = 32
"""Weights per block. The kernels support 16, 32, 64, ...; other tools usually write 32."""

BITS = (4, 8)
"""Bits per code that ONNX Runtime's CPU kernels support."""


@dataclass(frozen=True)
class Blocks:
    """A weight [K, N], quantized in blocks along K.

    Attributes:
        inner: K.
        bits: bits per code, 4 or 8.
        packed: codes, uint8 [N, blocks, BLOCK_LENGTH * bits / 8], low nibble first.
        scales: float32 [N, blocks].
        zero_points: uint8 [N, ceil(blocks * bits / 8)], low nibble first.
    """

    inner: int
    bits: int
    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return self.packed.nbytes + self.scales.nbytes + self.zero_points.nbytes

    @property
    def counts(self) -> NDArray[np.intp]:
        """How often each code occurs: [2^bits]."""
        codes = self._codes().reshape(len(self.scales), -1)[:, : self.inner]
        return np.bincount(codes.reshape(-1), minlength=2**self.bits)

    def decoded(self) -> NDArray[np.float32]:
        """Return the weight, float32 [K, N], as the kernel computes it."""
        outer, blocks = self.scales.shape
        zeros = self.zero_points if self.bits == 8 else _nibbles(self.zero_points)[:, :blocks]
        codes = self._codes().reshape(outer, blocks, BLOCK_LENGTH)
        steps = codes.astype(np.float32) - zeros[..., None]
        values = (steps * self.scales[..., None]).reshape(outer, -1)[:, : self.inner]
        return np.ascontiguousarray(values.T)

    def _codes(self) -> NDArray[np.uint8]:
        return self.packed if self.bits == 8 else _nibbles(self.packed)


def quantize_blocks(values: NDArray[np.float32], bits: int) -> Blocks:
    """Quantize a matrix with 2^bits uniform levels between the extremes of each block and zero.

    Args:
        values: float32 [K, N], finite.
        bits: 4 or 8.
    """
    inner, outer = values.shape
    blocks = -(-inner // BLOCK_LENGTH)
    padded = np.zeros((outer, blocks * BLOCK_LENGTH), np.float64)
    padded[:, :inner] = values.T
    padded = padded.reshape(outer, blocks, BLOCK_LENGTH)
    top = 2**bits - 1
    low, high = np.minimum(padded.min(axis=2), 0), np.maximum(padded.max(axis=2), 0)
    scales = ((high - low) / top).astype(np.float32)
    scales[scales == 0] = 1
    zeros = np.clip(np.rint(-low / scales), 0, top)
    codes = np.clip(np.rint(padded / scales[..., None]) + zeros[..., None], 0, top).astype(np.uint8)
    zero_points = zeros.astype(np.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
        zero_points = np.pad(zero_points, ((0, 0), (0, blocks % 2)))
        zero_points = zero_points[:, 0::2] | zero_points[:, 1::2] << 4
    return Blocks(inner, bits, codes, scales, zero_points)


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pairs = np.stack([packed & 15, packed >> 4], axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)

"""Second moments of each layer's inputs, accumulated batch by batch in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.patches import patches
from qqonnx.calibration.session import extended_session
from qqonnx.errors import QqonnxError
from qqonnx.inputs.masks import padding_mask
from qqonnx.model.session import run_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.context import Context
    from qqonnx.calibration.layers import Layer

POSITIONS = 49
"""Largest number of positions per sample; neighboring positions have similar inputs."""

INDEPENDENT_POSITIONS = 8
"""Largest number of independent samples that the positions of one sample are worth."""

_BLOCK = 512
"""Rows of the blocks in which products are added up."""

_FEWEST_PATCHES, _MOST_PATCHES = 64, 256
"""Limits on the number of patches whose products are added up at once."""


@dataclass(frozen=True)
class Moments:
    """The means of x xT and x over the patches x of a layer, for each half of the samples.

    The unit of x is such that its mean square is about 1.

    Attributes:
        halves: means of x xT, float32 [2, groups, columns, columns].
        means: means of x, float32 [2, groups, columns].
        samples: estimated number of independent samples in both halves. The positions of one sample
            are not independent; see `INDEPENDENT_POSITIONS`.
    """

    halves: NDArray[np.float32]
    means: NDArray[np.float32]
    samples: float

    @property
    def all(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Means over all samples: float32 [groups, columns, columns] and [groups, columns]."""
        return np.asarray(self.halves.mean(axis=0)), np.asarray(self.means.mean(axis=0))


def collect_moments(context: Context, layers: Sequence[Layer]) -> dict[str, Moments]:
    """Return the second moments of each layer's inputs, by the name of the layer's weight.

    Only the activations of one batch are in memory at a time. Positions that a mask marks as
    padding are left out.

    Raises:
        QqonnxError: the model does not run on the inputs, or activations are not finite.
    """
    inputs = context.inputs
    distinct = list({layer.patch_key: layer for layer in layers}.values())
    sums = [_Sums.of(layer) for layer in distinct]
    values = list(dict.fromkeys(value for layer in distinct for value in layer.inputs))
    computed = [value for value in values if not value.is_graph_input()]
    names = [value.name or "" for value in computed]
    with extended_session(context.model, outputs=computed, cut=bool(computed)) as session:
        for number, batch in enumerate(inputs.batches()):
            context.progress("activations", inputs.batch_size, inputs.count)
            outputs = run_session(session, batch, names, name="calibration: the model")
            activations = dict(zip(names, outputs, strict=True)) | batch
            mask = padding_mask(batch)
            for own in sums:
                for value in own.layer.inputs:
                    activation = activations[value.name or ""].astype(np.float32, copy=False)
                    # The positions do not depend on which other layers are observed.
                    random = np.random.default_rng(number)
                    x = patches(own.layer, activation, POSITIONS, random, mask)
                    own.add(x, half=number % 2, samples=len(activation))
    # The means of synthetic inputs differ from those of real ones, so they are not kept.
    keep_means = inputs.sample_weight >= 1
    found = {own.layer.patch_key: own.moments(keep_means=keep_means) for own in sums}
    return {layer.name: found[layer.patch_key] for layer in layers}


@dataclass
class _Sums:
    """Sums over the patches x of a layer, for each half of the samples.

    Attributes:
        layer: the layer.
        products: sums of x xT, [2, groups, columns, columns]; only the upper blocks are computed.
        firsts: sums of x, [2, groups, columns].
        counts: numbers of patches.
        samples: estimated number of independent samples.
        waiting: patches whose products are not in the sums yet.
    """

    layer: Layer
    products: NDArray[np.float32]
    firsts: NDArray[np.float32]
    counts: list[int]
    samples: float
    waiting: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]

    @classmethod
    def of(cls, layer: Layer) -> _Sums:
        """Return the sums over no patches."""
        shape = (2, layer.groups, layer.columns)
        products = np.zeros((*shape, layer.columns), np.float32)
        return cls(layer, products, np.zeros(shape, np.float32), [0, 0], 0.0, ([], []))

    def add(self, x: NDArray[np.float32], *, half: int, samples: int) -> None:
        """Add patches, [groups, columns, patches], of a number of samples."""
        self.firsts[half] += x.sum(axis=2)
        self.counts[half] += x.shape[2]
        self.samples += samples * min(x.shape[2] / samples, INDEPENDENT_POSITIONS)
        self.waiting[half].append(x)
        # Each addition reads and writes all sums, which takes longer than the products of a few
        # patches. An eighth of the columns bounds the memory of the patches that wait.
        enough = min(max(self.layer.columns // 8, _FEWEST_PATCHES), _MOST_PATCHES)
        if sum(part.shape[2] for part in self.waiting[half]) >= enough:
            self._add_products(half)

    def _add_products(self, half: int) -> None:
        parts, total = self.waiting[half], self.products[half]
        if not parts:
            return
        x = np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
        parts.clear()
        # The upper blocks take half the time of the whole product.
        for begin in range(0, total.shape[-1], _BLOCK):
            rows = slice(begin, begin + _BLOCK)
            total[:, rows, begin:] += x[:, rows] @ x[:, begin:].transpose(0, 2, 1)

    def moments(self, *, keep_means: bool) -> Moments:
        """Return the means over the patches; the sums are used up.

        Raises:
            QqonnxError: activations are not finite.
        """
        total, first = self.products, self.firsts
        for half in range(2):
            self._add_products(half)
        _mirror(total)
        if not np.isfinite(total).all():
            raise QqonnxError(f"calibration: the input of weight {self.layer.name!r} is not finite")
        count = np.maximum(self.counts, 1).astype(np.float32)
        total /= count[:, None, None, None]
        first /= count[:, None, None]
        if not self.counts[1]:
            total[1], first[1] = total[0], first[0]
        if not keep_means:
            first = np.zeros_like(first)
        _normalize(total, first)
        return Moments(total, first, self.samples)


def _mirror(total: NDArray[np.float32]) -> None:
    """Make symmetric matrices of their upper halves, in place: [..., columns, columns]."""
    for begin in range(0, total.shape[-1], _BLOCK):
        end = begin + _BLOCK
        own = total[..., begin:end, begin:end]
        own[...] = np.triu(own) + np.triu(own, 1).swapaxes(-1, -2)
        total[..., end:, begin:end] = total[..., begin:end, end:].swapaxes(-1, -2)


def _normalize(total: NDArray[np.float32], first: NDArray[np.float32]) -> None:
    """Divide moments by their mean size, in place.

    Products of tiny moments would be subnormal, which processors compute a hundred times more
    slowly. The divisors are powers of two, so nothing is rounded.
    """
    size = float(np.einsum("hgii->", total, dtype=np.float64)) / max(first.size, 1)
    if np.isfinite(size) and size > 0:
        unit = np.ldexp(1.0, round(np.log2(size) / 2))
        # Two steps: the square of the unit may not be a float32.
        for _ in range(2):
            total /= np.float32(unit)
        first /= np.float32(unit)

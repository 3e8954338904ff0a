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
"""Columns of the blocks in which products are added up."""


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
    sums = [
        np.zeros((2, layer.groups, layer.columns, layer.columns), np.float32) for layer in distinct
    ]
    firsts = [np.zeros((2, layer.groups, layer.columns), np.float32) for layer in distinct]
    counts = np.zeros((len(distinct), 2))
    samples = np.zeros(len(distinct))
    values = list(dict.fromkeys(value for layer in distinct for value in layer.inputs))
    computed = [value for value in values if not value.is_graph_input()]
    names = [value.name or "" for value in computed]
    with extended_session(context.model, outputs=computed, cut=bool(computed)) as session:
        for number, batch in enumerate(inputs.batches()):
            half = number % 2
            context.progress("activations", inputs.batch_size, inputs.count)
            outputs = run_session(session, batch, names, name="calibration: the model")
            activations = dict(zip(names, outputs, strict=True)) | batch
            mask = padding_mask(batch)
            for row, layer in enumerate(distinct):
                for value in layer.inputs:
                    activation = activations[value.name or ""].astype(np.float32, copy=False)
                    # The positions do not depend on which other layers are observed.
                    random = np.random.default_rng(number)
                    x = patches(layer, activation, POSITIONS, random, mask)
                    _add_products(sums[row][half], x)
                    firsts[row][half] += x.sum(axis=2)
                    counts[row, half] += x.shape[2]
                    positions = x.shape[2] / len(activation)
                    samples[row] += len(activation) * min(positions, INDEPENDENT_POSITIONS)
    found: dict[object, Moments] = {}
    for row, layer in enumerate(distinct):
        total, first = sums[row], firsts[row]
        _mirror(total)
        if not np.isfinite(total).all():
            raise QqonnxError(f"calibration: the input of weight {layer.name!r} is not finite")
        count = np.maximum(counts[row], 1).astype(np.float32)
        total /= count[:, None, None, None]
        first /= count[:, None, None]
        if not counts[row, 1]:
            total[1], first[1] = total[0], first[0]
        if inputs.sample_weight < 1:
            # The means of synthetic inputs differ from those of real ones, so they are not kept.
            first = np.zeros_like(first)
        _normalize(total, first)
        found[layer.patch_key] = Moments(total, first, float(samples[row]))
    return {layer.name: found[layer.patch_key] for layer in layers}


def _add_products(total: NDArray[np.float32], x: NDArray[np.float32]) -> None:
    """Add x xT to the upper blocks of `total`, [groups, columns, columns]; see `_mirror`.

    The blocks take half the time of the whole product.
    """
    for begin in range(0, total.shape[-1], _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        total[:, rows, begin:] += x[:, rows] @ x[:, begin:].transpose(0, 2, 1)


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

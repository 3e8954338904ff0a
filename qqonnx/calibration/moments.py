"""Second moments of each layer's inputs, accumulated batch by batch in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.layers import patches
from qqonnx.calibration.session import extended_session
from qqonnx.errors import QqonnxError
from qqonnx.model.session import run_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.calibration.layers import Layer
    from qqonnx.config import Progress

POSITIONS = 49
"""Largest number of positions per sample; neighboring positions have similar inputs."""

MAX_BYTES = 1 << 30
"""Limit on the bytes of all second moments; the widest layers beyond it get none."""

INDEPENDENT_POSITIONS = 8
"""Largest number of independent samples that the positions of one sample are worth."""


@dataclass(frozen=True)
class Moments:
    """The means of x xT and x over the patches x of a layer, for each half of the samples.

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


def collect_moments(
    model: ir.Model,
    layers: Sequence[Layer],
    inputs: CalibrationInputs,
    progress: Progress = lambda *_: None,
) -> dict[str, Moments]:
    """Return the second moments of each layer's inputs, by the name of the layer's weight.

    Only the activations of one batch are in memory at a time. The widest layers are omitted if the
    moments of all layers exceed `MAX_BYTES`.

    Raises:
        QqonnxError: the model does not run on the inputs, or activations are not finite.
    """
    layers = _within_memory(layers)
    sums = {
        layer.name: np.zeros((2, layer.groups, layer.columns, layer.columns), np.float32)
        for layer in layers
    }
    firsts = {
        layer.name: np.zeros((2, layer.groups, layer.columns), np.float32) for layer in layers
    }
    counts = {name: np.zeros(2) for name in sums}
    samples = dict.fromkeys(sums, 0.0)
    values = list(dict.fromkeys(value for layer in layers for value in layer.inputs))
    computed = [value for value in values if not value.is_graph_input()]
    names = [value.name or "" for value in computed]
    random = np.random.default_rng(0)
    with extended_session(model, outputs=computed) as session:
        for number, batch in enumerate(inputs.batches()):
            half = number % 2
            progress("activations", inputs.batch_size, 2 * inputs.count)
            outputs = run_session(session, batch, names, name="calibration: the model")
            activations = dict(zip(names, outputs, strict=True)) | batch
            for layer in layers:
                for value in layer.inputs:
                    activation = activations[value.name or ""].astype(np.float32, copy=False)
                    x = patches(layer, activation, POSITIONS, random)
                    sums[layer.name][half] += x.transpose(0, 2, 1) @ x
                    firsts[layer.name][half] += x.sum(axis=1)
                    counts[layer.name][half] += x.shape[1]
                    positions = x.shape[1] / len(activation)
                    samples[layer.name] += len(activation) * min(positions, INDEPENDENT_POSITIONS)
    moments = {}
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise QqonnxError(f"calibration: the input of weight {name!r} is not finite")
        first, count = firsts[name], np.maximum(counts[name], 1).astype(np.float32)
        total /= count[:, None, None, None]
        first /= count[:, None, None]
        if not counts[name][1]:
            total[1], first[1] = total[0], first[0]
        moments[name] = Moments(total, first, samples[name])
    return moments


def _within_memory(layers: Sequence[Layer]) -> list[Layer]:
    names, total = set(), 0
    for layer in sorted(layers, key=lambda layer: layer.columns):
        total += 2 * 4 * layer.groups * layer.columns**2
        if total <= MAX_BYTES:
            names.add(layer.name)
    return [layer for layer in layers if layer.name in names]

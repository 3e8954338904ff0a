"""Distance of a model's outputs, of any form, from those of a reference model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.evaluation.metrics import divergence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MIN_CHANNEL_VALUES = 32
"""Values that a channel needs for a variance of its own."""

MIN_VARIATION = 1e-3
"""Smallest variance of a channel, as a share of its mean square: nearly constant channels would
count for more than all others together."""

MAX_RELATIVE_ERROR = 0.3
MIN_AGREEMENT = 0.95


@dataclass(frozen=True)
class OutputQuality:
    """How one output of a model compares with the reference's.

    Attributes:
        name: name of the output.
        samples: number of samples.
        relative_error: root of the mean squared error of each channel over the channel's variance,
            averaged over channels.
        worst_channel: the same of the channel with the largest error.
        cosine: mean cosine of a run's outputs.
        sqnr: signal-to-quantization-noise ratio in dB.
        max_difference: largest absolute difference.
        agreement: share of samples with the same largest value; None unless the output is
            [samples, classes].
        kl: mean KL(reference || output) in nats; None unless the output is [samples, classes].
    """

    name: str
    samples: int
    relative_error: float
    worst_channel: float
    cosine: float
    sqnr: float
    max_difference: float
    agreement: float | None
    kl: float | None

    @property
    def is_poor(self) -> bool:
        """Whether the output lost more than 5 % of its answers, or 30 % of its own variation."""
        if self.agreement is not None:
            return self.agreement < MIN_AGREEMENT
        return self.worst_channel > MAX_RELATIVE_ERROR


def tells_classes_apart(output: NDArray[Any]) -> bool:
    """Return whether an output is taken for logits or probabilities: floats [samples, classes]."""
    return output.dtype.kind == "f" and output.ndim == 2 and output.shape[1] > 1


def output_divergence(reference: NDArray[Any], output: NDArray[Any]) -> float:
    """Return how far an output is from the reference; 0 for outputs that are not floats.

    For outputs [samples, classes] this is the mean KL(reference || output) in nats. For others it
    is half the mean over the channels of `channel_errors`, which is the divergence of normal
    distributions with the channels' variances.
    """
    if reference.dtype.kind != "f" or reference.shape != output.shape or not reference.size:
        return 0.0
    if tells_classes_apart(reference):
        # Rounding can take the sum of a vanishing divergence below zero.
        return max(float(divergence(reference, output).mean()), 0.0)
    return float(channel_errors(reference, output).mean()) / 2


def channel_errors(reference: NDArray[Any], output: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean squared error of each channel over the channel's variance: [channels].

    Channels lie along `channel_axis`; without one, the whole output is one channel. A variance
    counts as at least `MIN_VARIATION` of the channel's mean square.

    Args:
        reference: floats [samples, ...].
        output: floats of the same shape.
    """
    exact = reference.astype(np.float64)
    squared = np.square(output.astype(np.float64) - exact)
    axis = channel_axis(exact)
    others = None if axis is None else tuple(a for a in range(exact.ndim) if a != axis)
    variance = np.atleast_1d(exact.var(axis=others))
    errors = np.atleast_1d(squared.mean(axis=others))
    size = np.atleast_1d(np.square(exact).mean(axis=others))
    scale = np.maximum(variance, MIN_VARIATION * size)
    # A channel of zeros counts relative to the others.
    return np.asarray(errors / np.where(scale > 0, scale, float(scale.mean()) or 1.0))


def channel_axis(values: NDArray[np.float64]) -> int | None:
    """Return the axis of the channels: that whose channels differ most in variance.

    Boxes in pixels beside scores up to 1 are an example. The first axis, of samples, has no
    channels, and a channel has at least `MIN_CHANNEL_VALUES` values. None without such an axis.
    """
    best, spread = None, 0.0
    for axis in range(1, values.ndim):
        count = values.shape[axis]
        if count < 2 or values.size // count < MIN_CHANNEL_VALUES:
            continue
        variance = values.var(axis=tuple(other for other in range(values.ndim) if other != axis))
        positive = variance[variance > 0]
        deviation = float(np.log(positive).std()) if positive.size else 0.0
        if deviation > spread:
            best, spread = axis, deviation
    return best


def output_quality(
    name: str, references: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]
) -> OutputQuality:
    """Compare an output of several runs with the reference's.

    Args:
        name: name of the output.
        references: floats or integers [samples, ...] of each run, at least one run.
        outputs: the same of the other model, of the same shapes.
    """
    pairs = [
        (reference.astype(np.float64), output.astype(np.float64))
        for reference, output in zip(references, outputs, strict=True)
    ]
    counts = np.array([len(a) if a.ndim else 1 for a, _ in pairs], np.float64)
    errors = [channel_errors(a, b) for a, b in pairs]
    noise = sum(float(np.square(a - b).sum()) for a, b in pairs)
    signal = sum(float(np.square(a).sum()) for a, _ in pairs)
    differences = [float(np.abs(a - b).max(initial=0)) for a, b in pairs]
    agreement = kl = None
    if all(map(tells_classes_apart, references)):
        same = sum(int((a.argmax(axis=1) == b.argmax(axis=1)).sum()) for a, b in pairs)
        agreement = same / float(counts.sum())
        kl = sum(float(divergence(a, b).sum()) for a, b in pairs) / float(counts.sum())
    return OutputQuality(
        name=name,
        samples=int(counts.sum()),
        relative_error=float(np.sqrt(np.average([e.mean() for e in errors], weights=counts))),
        worst_channel=float(np.sqrt(np.average([e.max() for e in errors], weights=counts))),
        cosine=float(np.average([_cosine(a, b) for a, b in pairs])),
        sqnr=10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else float("inf"),
        max_difference=max(differences),
        agreement=agreement,
        kl=kl,
    )


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / lengths if lengths > 0 else 1.0

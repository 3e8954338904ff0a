"""Divergence of an output from the reference's: what calibration and fine-tuning minimize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.evaluation.classes import compare_decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_CHANNEL_VALUES = 32
"""Values that a channel needs for a variance of its own."""

MIN_VARIATION = 1e-3
"""Smallest variance of a channel, as a share of its mean square: nearly constant channels would
count for more than all others together."""


def output_divergence(reference: NDArray[Any], output: NDArray[Any], name: str = "") -> float:
    """Return how far an output is from the reference; 0 for outputs that are not floats.

    For outputs that make decisions (see `compare_decisions`) this is the mean KL(reference ||
    output) of a decision in nats. For others it is half the mean over the channels of
    `channel_errors`, which is the divergence of normal distributions with the channels' variances.

    Args:
        reference: output of the reference, [samples, ...].
        output: output of the other model.
        name: name of the output.
    """
    if reference.dtype.kind != "f" or reference.shape != output.shape or not reference.size:
        return 0.0
    decisions = compare_decisions(reference, output, name)
    if decisions is not None and decisions.divergence is not None:
        # Rounding can take the sum of a vanishing divergence below zero.
        return max(float(decisions.divergence.mean()), 0.0)
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
    return relative_errors(errors, variance, size)


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
        deviation = log_spread(variance)
        if deviation > spread:
            best, spread = axis, deviation
    return best


def relative_errors(
    errors: NDArray[np.float64], variance: NDArray[np.float64], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return mean squared errors over variances: [channels]; see `channel_errors`.

    Args:
        errors: mean squared error of each channel.
        variance: variance of each channel.
        size: mean square of each channel.
    """
    scale = np.maximum(variance, MIN_VARIATION * size)
    # A channel of zeros counts relative to the others.
    return np.asarray(errors / np.where(scale > 0, scale, float(scale.mean()) or 1.0))


def log_spread(variance: NDArray[np.float64]) -> float:
    """Return how much the variances of channels differ: deviation of the logarithms."""
    positive = variance[variance > 0]
    return float(np.log(positive).std()) if positive.size else 0.0

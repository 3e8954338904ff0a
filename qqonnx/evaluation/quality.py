"""Quality of a model's outputs, of any form, compared with those of a reference model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.evaluation.classes import compare_decisions
from qqonnx.evaluation.divergence import MIN_CHANNEL_VALUES, log_spread, relative_errors
from qqonnx.evaluation.intervals import wilson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.evaluation.intervals import Interval

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
        cosine: mean cosine of a sample's outputs.
        sqnr: signal-to-quantization-noise ratio in dB.
        max_difference: largest absolute difference.
        agreement: share of decisions (the class of a sample, token or pixel) that are the
            reference's; None for an output that makes none, see `compare_decisions`.
        agreement_interval: 95 % confidence interval of the agreement, see `OutputSums`.
        kl: mean KL(reference || output) of a decision in nats; None without probabilities.
    """

    name: str
    samples: int
    relative_error: float
    worst_channel: float
    cosine: float
    sqnr: float
    max_difference: float
    agreement: float | None
    agreement_interval: Interval | None
    kl: float | None

    @property
    def is_poor(self) -> bool:
        """Whether the output lost more than 5 % of its answers, or 30 % of its own variation."""
        if self.agreement is not None:
            return self.agreement < MIN_AGREEMENT
        return self.worst_channel > MAX_RELATIVE_ERROR


@dataclass(frozen=True)
class OutputSums:
    """Sums of an output's differences over runs, which can be added up run by run.

    Attributes:
        samples: number of samples.
        channels: for each axis that may hold channels, and None for the whole output as one
            channel: number of values, their sum, the sum of their squares and that of the squared
            differences, float64 [4, channels].
        cosine: sum of the cosines.
        cosines: number of cosines.
        noise: sum of the squared differences.
        signal: sum of the squared reference.
        max_difference: largest absolute difference.
        decisions: for each sample summed up: number of decisions d and of those that agree a, as
            (d, a, d², ad, a²); None if the output makes no decisions.
        kl: sum of the divergences of the decisions; None without.
    """

    samples: int
    channels: Mapping[int | None, NDArray[np.float64]]
    cosine: float
    cosines: int
    noise: float
    signal: float
    max_difference: float
    decisions: tuple[float, ...] | None
    kl: float | None

    def __add__(self, other: OutputSums) -> OutputSums:
        known = self.decisions is not None and other.decisions is not None
        return OutputSums(
            self.samples + other.samples,
            {
                axis: sums + other.channels[axis]
                for axis, sums in self.channels.items()
                if axis in other.channels and other.channels[axis].shape == sums.shape
            },
            self.cosine + other.cosine,
            self.cosines + other.cosines,
            self.noise + other.noise,
            self.signal + other.signal,
            max(self.max_difference, other.max_difference),
            tuple(map(add, self.decisions or (), other.decisions or ())) if known else None,
            None if self.kl is None or other.kl is None else self.kl + other.kl,
        )

    @property
    def agreement_interval(self) -> Interval | None:
        """Wilson interval of the agreement.

        Decisions of one sample (tokens, pixels) are not independent. So the number of observations
        is that of independent decisions whose share would have the variance of the share here,
        which follows from the differences between samples (Kish, *Survey Sampling*, 1965). It is
        at least the number of samples.
        """
        if self.decisions is None:
            return None
        total, agreeing, squares, products, agreeing_squares = self.decisions
        share = agreeing / total
        spread = agreeing_squares - 2 * share * products + share**2 * squares
        variance = spread * self.samples / max(self.samples - 1, 1) / total**2
        count = float(self.samples)
        if variance > 0:
            count = max(min(share * (1 - share) / variance, total), count)
        return wilson(share, count)

    def _channel_errors(self) -> NDArray[np.float64]:
        """Return the errors as `channel_errors` does, over all runs."""
        best, spread = self.channels[None], 0.0
        for sums in self.channels.values():
            count, total, squares, _ = sums
            if sums.shape[1] < 2 or count.min() < MIN_CHANNEL_VALUES:
                continue
            deviation = log_spread(squares / count - (total / count) ** 2)
            if deviation > spread:
                best, spread = sums, deviation
        count, total, squares, errors = best
        size = squares / count
        # Rounding can take the variance of a constant channel below zero.
        variance = np.maximum(size - (total / count) ** 2, 0)
        return relative_errors(errors / count, variance, size)

    def quality(self, name: str) -> OutputQuality:
        """Return the means over all runs."""
        known = self.noise > 0 and self.signal > 0
        total, agreeing = (self.decisions or (1.0, 0.0))[:2]
        errors = self._channel_errors()
        return OutputQuality(
            name=name,
            samples=self.samples,
            relative_error=float(np.sqrt(errors.mean())),
            worst_channel=float(np.sqrt(errors.max())),
            cosine=self.cosine / self.cosines,
            sqnr=10 * float(np.log10(self.signal / self.noise)) if known else float("inf"),
            max_difference=self.max_difference,
            agreement=None if self.decisions is None else agreeing / total,
            agreement_interval=self.agreement_interval,
            kl=None if self.kl is None else self.kl / total,
        )


def compare_run(
    reference: NDArray[Any],
    output: NDArray[Any],
    name: str = "",
    mask: NDArray[np.bool_] | None = None,
) -> OutputSums:
    """Compare an output of one run with the reference's.

    Args:
        reference: floats or integers [samples, ...], at least one value.
        output: the same of the other model, of the same shape.
        name: name of the output.
        mask: which positions count, [samples, positions]; for outputs [samples, positions, ...].
    """
    reference, output = np.atleast_1d(reference), np.atleast_1d(output)
    samples = len(reference)
    decisions = compare_decisions(reference, output, name)
    exact, other = reference.astype(np.float64), output.astype(np.float64)
    same = ~np.isfinite(exact) & ((exact == other) | (np.isnan(exact) & np.isnan(other)))
    if same.any():
        exact, other = np.where(same, 0, exact), np.where(same, 0, other)
    if mask is not None and reference.shape[:2] == mask.shape:
        exact, other = exact[mask], other[mask]
    else:
        mask = None
    cosines = _cosines(exact, other)
    sums, kl = None, None
    if decisions is not None:
        counted = np.ones(decisions.equal.shape)
        if mask is not None and counted.shape[:2] == mask.shape:
            counted *= mask.reshape(mask.shape + (1,) * (counted.ndim - 2))
        d = counted.reshape(samples, -1).sum(axis=1)
        a = (counted * decisions.equal).reshape(samples, -1).sum(axis=1)
        sums = tuple(float(term.sum()) for term in (d, a, d * d, a * d, a * a))
        if decisions.divergence is not None:
            kl = float((counted * decisions.divergence).sum())
    axes = [axis for axis in range(1, exact.ndim) if exact.shape[axis] > 1]
    return OutputSums(
        samples=samples,
        channels={axis: _channel_sums(exact, other, axis) for axis in (None, *axes)},
        cosine=float(cosines.sum()),
        cosines=len(cosines),
        noise=float(np.square(exact - other).sum()),
        signal=float(np.square(exact).sum()),
        max_difference=float(np.abs(exact - other).max()),
        decisions=sums,
        kl=kl,
    )


def output_quality(
    name: str, references: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]
) -> OutputQuality:
    """Compare an output of several runs with the reference's.

    Args:
        name: name of the output.
        references: floats or integers [samples, ...] of each run, at least one run.
        outputs: the same of the other model, of the same shapes.
    """
    runs = (compare_run(a, b, name) for a, b in zip(references, outputs, strict=True))
    return reduce(add, runs).quality(name)


def _channel_sums(
    exact: NDArray[np.float64], other: NDArray[np.float64], axis: int | None
) -> NDArray[np.float64]:
    """Return `OutputSums.channels` of one axis: float64 [4, channels]."""
    others = None if axis is None else tuple(a for a in range(exact.ndim) if a != axis)
    terms = (np.ones_like(exact), exact, np.square(exact), np.square(other - exact))
    return np.stack([np.atleast_1d(term.sum(axis=others)) for term in terms])


def _cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each sample, or one of all samples if a sample has one value."""
    shape = (1, -1) if first.size == len(first) else (len(first), -1)
    rows = first.reshape(shape), second.reshape(shape)
    lengths = np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1)
    products = (rows[0] * rows[1]).sum(axis=1)
    # A sample of zeros has no direction to lose.
    return np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), 1.0)

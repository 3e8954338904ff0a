"""Accuracy and agreement, added up batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Sums over images.

    Attributes:
        images: number of images.
        top1: images whose greatest output is the right one.
        top5: images whose right output is among the five greatest.
        agreeing: images whose greatest output is the baseline's.
        kl: sum of KL(baseline || model) in nats.
    """

    images: int = 0
    top1: int = 0
    top5: int = 0
    agreeing: int = 0
    kl: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.images + other.images,
            self.top1 + other.top1,
            self.top5 + other.top5,
            self.agreeing + other.agreeing,
            self.kl + other.kl,
        )


def count(
    outputs: NDArray[Any], answers: NDArray[np.int64], baseline: NDArray[Any] | None
) -> Counts:
    """Compare outputs with the right answers and with the baseline's outputs.

    Args:
        outputs: logits or probabilities [n, classes].
        answers: the right output of each image, int64 [n].
        baseline: the baseline's outputs on the same images, of the same shape.
    """
    right = outputs[np.arange(len(answers)), answers][:, None]
    # The lower of two equal outputs' indices ranks first, as with argmax.
    earlier = np.arange(outputs.shape[1]) < answers[:, None]
    rank = ((outputs > right) | ((outputs == right) & earlier)).sum(axis=1)
    agreeing, kl = 0, 0.0
    if baseline is not None:
        agreeing = int((outputs.argmax(axis=1) == baseline.argmax(axis=1)).sum())
        kl = float(divergence(baseline, outputs).sum())
    return Counts(len(answers), int((rank == 0).sum()), int((rank < 5).sum()), agreeing, kl)


def divergence(reference: NDArray[Any], outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return KL(reference || outputs) of each image in nats, [n], from logits or probabilities."""
    expected, found = log_probabilities(reference), log_probabilities(outputs)
    share = np.exp(expected)
    return np.asarray(np.where(share > 0, share * (expected - found), 0.0).sum(axis=1))


def log_probabilities(outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return log-probabilities [n, classes].

    Outputs that are non-negative and add up to 1 in every row are taken as probabilities,
    others as logits.

    Example:
        >>> log_probabilities(np.array([[0.25, 0.75]])).round(2).tolist()
        [[-1.39, -0.29]]
        >>> log_probabilities(np.array([[1.0, 2.0]])).round(2).tolist()
        [[-1.31, -0.31]]
    """
    values = outputs.astype(np.float64)
    if len(values) and (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return np.log(np.maximum(values, 1e-30))
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

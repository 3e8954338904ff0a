"""Accuracy, agreement and KL divergence of a classifier's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Sums over samples, which can be added up batch by batch.

    Attributes:
        samples: number of samples.
        top1: samples whose largest output is the target.
        top5: samples whose target is among the five largest outputs.
        agreeing: samples with the same largest output as the reference.
        kl: sum of KL(reference || model) in nats.
    """

    samples: int = 0
    top1: int = 0
    top5: int = 0
    agreeing: int = 0
    kl: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.samples + other.samples,
            self.top1 + other.top1,
            self.top5 + other.top5,
            self.agreeing + other.agreeing,
            self.kl + other.kl,
        )


def count(
    outputs: NDArray[Any], targets: NDArray[np.int64] | None, reference: NDArray[Any]
) -> Counts:
    """Compare outputs with the correct classes and with the outputs of a reference model.

    Args:
        outputs: logits or probabilities [n, classes].
        targets: index of each sample's correct output, int64 [n]; without it no output counts
            as correct.
        reference: outputs of the reference model for the same samples, [n, classes].
    """
    top1, top5 = (0, 0) if targets is None else top_counts(outputs, targets)
    agreeing = int((outputs.argmax(axis=1) == reference.argmax(axis=1)).sum())
    return Counts(len(outputs), top1, top5, agreeing, float(divergence(reference, outputs).sum()))


def top_counts(outputs: NDArray[Any], targets: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many samples have their target first, and among the first five outputs.

    Args:
        outputs: logits or probabilities [n, classes].
        targets: index of each sample's correct output, int64 [n].
    """
    correct = outputs[np.arange(len(targets)), targets][:, None]
    # Among equal outputs the lowest index ranks first, as with argmax.
    earlier = np.arange(outputs.shape[1]) < targets[:, None]
    rank = ((outputs > correct) | ((outputs == correct) & earlier)).sum(axis=1)
    return int((rank == 0).sum()), int((rank < 5).sum())


def divergence(reference: NDArray[Any], outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return KL(reference || outputs) of each sample in nats, float64 [n].

    Args:
        reference: logits or probabilities [n, classes].
        outputs: logits or probabilities [n, classes].
    """
    log_p, log_q = log_probabilities(reference), log_probabilities(outputs)
    p = np.exp(log_p)
    return np.asarray(np.where(p > 0, p * (log_p - log_q), 0.0).sum(axis=1))


def log_probabilities(outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return log-probabilities [n, classes].

    Outputs are probabilities if all are non-negative and every row sums to 1, logits otherwise.

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

"""Outputs that tell classes apart, per sample, token or pixel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.evaluation.metrics import divergence

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEATURES = re.compile("embed|hidden|feature|pool|state")
"""Names of outputs that are features and not classes."""

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Decisions:
    """Decisions of one run, compared with the reference's.

    Attributes:
        equal: whether each decision is the reference's: bool [first axis of the output, ...].
        divergence: KL(reference || output) of each decision in nats; None for integers.
    """

    equal: NDArray[np.bool_]
    divergence: NDArray[np.float64] | None


def compare_decisions(
    reference: NDArray[Any], output: NDArray[Any], name: str = ""
) -> Decisions | None:
    """Compare the decisions of an output with the reference's; None if the output makes none.

    Integers are decisions. Floats are logits or probabilities of classes if

    - they are [samples, classes], perhaps with more axes of size 1 behind, unless the name or rows
      of length 1 say that they are features;
    - they are probabilities that add up to 1 along the last or the second axis;
    - the name says "logit": classes are the second axis of images, else the last one;
    - they are one probability per position: the last or the second axis has size 1, and all
      values are between 0 and 1.

    Args:
        reference: output of the reference, [samples, ...].
        output: output of the other model, of the same shape.
        name: name of the output.
    """
    if reference.dtype.kind in "iub":
        return Decisions(np.atleast_1d(reference == output), None)
    if reference.dtype.kind != "f" or not reference.ndim or not reference.size:
        return None
    exact = reference.astype(np.float64)
    axis = class_axis(exact, name)
    if axis is None:
        if not _is_probability(exact):
            return None
        first, second = (np.stack([1 - p, p], -1) for p in (exact, np.clip(output, 0, 1)))
    else:
        first, second = (np.moveaxis(a, axis, -1) for a in (exact, output))
    shape, classes = first.shape[:-1], first.shape[-1]
    rows = first.reshape(-1, classes), second.reshape(-1, classes)
    return Decisions(
        (rows[0].argmax(axis=1) == rows[1].argmax(axis=1)).reshape(shape),
        divergence(*rows).reshape(shape),
    )


def class_axis(output: NDArray[Any], name: str = "") -> int | None:
    """Return the axis of the classes of an output; see `compare_decisions`."""
    axes = [axis for axis in range(1, output.ndim) if output.shape[axis] > 1]
    for axis in sorted(axes, key=lambda axis: (axis != output.ndim - 1, axis)):
        if axis in (1, output.ndim - 1) and _adds_up(output, axis):
            return axis
    if axes == [1] and not _is_features(output, name):
        return 1
    if axes and "logit" in name.lower():
        return 1 if output.ndim == 4 else output.ndim - 1
    return None


def _adds_up(output: NDArray[Any], axis: int) -> bool:
    if not (output >= 0).all():
        return False
    return bool(np.allclose(output.sum(axis=axis), 1, atol=_SUM_TOLERANCE))


def _is_features(output: NDArray[Any], name: str) -> bool:
    if _FEATURES.search(name.lower()):
        return True
    lengths = np.square(output.reshape(len(output), -1)).sum(axis=1)
    return bool(np.allclose(lengths, 1, atol=_SUM_TOLERANCE))


def _is_probability(output: NDArray[Any]) -> bool:
    single = output.ndim > 1 and 1 in (output.shape[1], output.shape[-1])
    return single and bool(((output >= 0) & (output <= 1)).all())

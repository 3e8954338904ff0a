"""Ranges of activations, from runs of the float model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.model.session import open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SAMPLE = 16384
"""Largest number of values of an activation that are kept."""

_PER_RUN = 1024

_STEPS = 255
"""Steps of a range that uint8 divides."""

_SHARES = np.linspace(1.0, 0.4, 25)
"""Shares of the whole range that are tried."""


@dataclass(frozen=True)
class Activation:
    """What was seen of one activation.

    Attributes:
        low: smallest value.
        high: largest value.
        sample: random values, float32 [n].
    """

    low: float
    high: float
    sample: NDArray[np.float32]

    @property
    def whole(self) -> tuple[float, float]:
        """The smallest and the largest value, or zero."""
        return min(self.low, 0.0), max(self.high, 0.0)

    @property
    def least_error(self) -> tuple[float, float]:
        """The range with the least squared error of the rounded and clipped sample.

        One or both ends are moved towards zero.
        """
        low, high = self.whole
        candidates = [
            ends
            for a in _SHARES
            for ends in ((low * a, high * a), (low, high * a), (low * a, high))
        ]
        return min(dict.fromkeys(candidates), key=lambda ends: _error(self.sample, *ends))


def observe(path: Path, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, Activation]:
    """Run a model, and return what was seen of its inputs and outputs that are float32.

    Args:
        path: the model; each activation is an output.
        feeds: inputs of the runs.

    Raises:
        QqonnxError: the model does not load or run.
    """
    session = open_session(path, name="rounding of activations: the model", spinning=False)
    names = [out.name for out in session.get_outputs() if out.type == "tensor(float)"]
    random = np.random.default_rng(0)
    seen: dict[str, list[tuple[float, float, NDArray[np.float32]]]] = {}
    for feed in feeds:
        outputs = run_session(session, feed, names, name="rounding of activations: the model")
        for name, values in (*zip(names, outputs, strict=True), *feed.items()):
            if values.dtype == np.float32 and values.size:
                flat = values.reshape(-1)
                sample = random.choice(flat, min(_PER_RUN, flat.size), replace=False)
                seen.setdefault(name, []).append((float(flat.min()), float(flat.max()), sample))
    return {name: _joined(parts) for name, parts in seen.items()}


def _joined(parts: list[tuple[float, float, NDArray[np.float32]]]) -> Activation:
    lows, highs, samples = zip(*parts, strict=True)
    sample = np.concatenate(samples)
    return Activation(min(lows), max(highs), sample[:: max(len(sample) // SAMPLE, 1)])


def _error(sample: NDArray[np.float32], low: float, high: float) -> float:
    scale = (high - low) / _STEPS
    if scale == 0:
        return float(np.square(sample).mean())
    zero = np.rint(-low / scale)
    rounded = (np.clip(np.rint(sample / scale) + zero, 0, _STEPS) - zero) * scale
    return float(np.square(rounded - sample).mean())

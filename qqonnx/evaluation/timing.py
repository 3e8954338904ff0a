"""Load time and latency, relative to the first of several models measured in turns."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from qqonnx.evaluation.classifier import Classifier, open_classifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

LOADS = 5
WARMUP_RUNS = 3
RUNS = 30


def load_ratios(models: Sequence[Path], threads: int | None) -> list[float]:
    """Return each model's median load time in ONNX Runtime, divided by that of the first."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(LOADS):
        for model, durations in zip(models, times, strict=True):
            start = time.perf_counter()
            open_classifier(model, threads)
            durations.append(time.perf_counter() - start)
    return _over_first(times)


def latency_ratios(classifiers: Sequence[Classifier], images: NDArray[np.float32]) -> list[float]:
    """Return each model's median time for one image [1, ...], divided by that of the first."""
    times: list[list[float]] = [[] for _ in classifiers]
    for round_number in range(WARMUP_RUNS + RUNS):
        for classifier, durations in zip(classifiers, times, strict=True):
            start = time.perf_counter()
            classifier.run(images)
            if round_number >= WARMUP_RUNS:
                durations.append(time.perf_counter() - start)
    return _over_first(times)


def _over_first(times: list[list[float]]) -> list[float]:
    medians = [median(durations) for durations in times]
    return [value / medians[0] for value in medians]

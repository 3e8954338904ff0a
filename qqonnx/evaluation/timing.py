"""Load time and latency of models against a baseline, taken in turns in one run."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from qqonnx.evaluation.session import Classifier, open_classifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

LOADS = 5
RUNS = 30


def load_ratios(models: Sequence[Path], threads: int | None) -> list[float]:
    """Return the median time of loading each model in ONNX Runtime, over that of the first."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(LOADS):
        for model, taken in zip(models, times, strict=True):
            start = time.perf_counter()
            open_classifier(model, threads)
            taken.append(time.perf_counter() - start)
    return _over_first(times)


def latency_ratios(classifiers: Sequence[Classifier], images: NDArray[np.float32]) -> list[float]:
    """Return the median time of one run with one image [1, ...], over that of the first."""
    times: list[list[float]] = [[] for _ in classifiers]
    for round_number in range(RUNS + 3):
        for classifier, taken in zip(classifiers, times, strict=True):
            start = time.perf_counter()
            classifier.run(images)
            # The first rounds warm caches up.
            if round_number >= 3:
                taken.append(time.perf_counter() - start)
    return _over_first(times)


def _over_first(times: list[list[float]]) -> list[float]:
    medians = [median(taken) for taken in times]
    return [value / medians[0] for value in medians]

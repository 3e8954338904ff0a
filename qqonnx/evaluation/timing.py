"""Load time and latency, relative to the first of several models measured in turns."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from qqonnx.evaluation.classifier import Classifier, open_classifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

LOADS = 5
WARMUP_RUNS = 3
RUNS = 30


def load_ratios(models: Sequence[Path], threads: int | None) -> list[float]:
    """Return each model's median load time in ONNX Runtime, divided by that of the first."""
    return _ratios([partial(open_classifier, model, threads) for model in models], LOADS)


def latency_ratios(classifiers: Sequence[Classifier], images: NDArray[np.float32]) -> list[float]:
    """Return each model's median time for one image [1, ...], divided by that of the first."""
    runs = [partial(classifier.run, images) for classifier in classifiers]
    return _ratios(runs, RUNS, warmup=WARMUP_RUNS)


def _ratios(actions: Sequence[Callable[[], object]], rounds: int, warmup: int = 0) -> list[float]:
    times: list[list[float]] = [[] for _ in actions]
    for number in range(warmup + rounds):
        for action, durations in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if number >= warmup:
                durations.append(time.perf_counter() - start)
    medians = [median(durations) for durations in times]
    return [value / medians[0] for value in medians]

"""Load time and latency, relative to the first of several models measured in turns."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from qqonnx.model.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qqonnx.evaluation.loaded import LoadedModel
    from qqonnx.inputs.feeds import Feed

LOADS = 5
WARMUP_RUNS = 3
RUNS = 30


def load_ratios(models: Sequence[Path], threads: int | None) -> list[float]:
    """Return each model's median load time in ONNX Runtime, divided by that of the first."""
    return ratios_in_turns(
        [partial(open_session, model, threads=threads) for model in models], LOADS
    )


def latency_ratios(models: Sequence[LoadedModel], feed: Feed) -> list[float]:
    """Return each model's median time for one run, divided by that of the first."""
    runs = [partial(model.run, feed) for model in models]
    return ratios_in_turns(runs, RUNS, warmup=WARMUP_RUNS)


def ratios_in_turns(
    actions: Sequence[Callable[[], object]], rounds: int, warmup: int = 0
) -> list[float]:
    """Return each action's median time, divided by that of the first; all are called in turns."""
    times: list[list[float]] = [[] for _ in actions]
    for number in range(warmup + rounds):
        for action, durations in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if number >= warmup:
                durations.append(time.perf_counter() - start)
    medians = [median(durations) for durations in times]
    return [value / medians[0] for value in medians]

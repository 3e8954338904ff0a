"""Time of a run relative to the original model, on synthetic inputs."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from qqonnx.model.compare import open_for_comparison, run_limited, run_synthetic

if TYPE_CHECKING:
    from pathlib import Path

RUNS = 5
LONGEST_RUN = 2.0
"""Seconds of a run above which nothing is measured."""


def run_ratio(original: Path, other: Path) -> float | None:
    """Return the median time of a run of `other` divided by that of `original`, run in turns.

    None if the original does not run on synthetic inputs, or takes more than `LONGEST_RUN`.
    """
    try:
        sessions = [open_for_comparison(path) for path in (original, other)]
        inputs, _ = run_synthetic(sessions[0])
        times: list[list[float]] = [[], []]
        for turn in range(RUNS + 1):
            for session, durations in zip(sessions, times, strict=True):
                start = time.perf_counter()
                run_limited(session, inputs)
                if turn:  # the first one warms up
                    durations.append(time.perf_counter() - start)
                elif time.perf_counter() - start > LONGEST_RUN:
                    return None
    except Exception:  # ONNX Runtime's errors have no common class
        return None
    return median(times[1]) / median(times[0])

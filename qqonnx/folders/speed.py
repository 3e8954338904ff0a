"""Time of a run relative to the original model, on synthetic inputs."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from qqonnx.evaluation.timing import ratios_in_turns
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
        runs = [partial(run_limited, session, inputs) for session in sessions]
        for run in runs:  # the first one warms up
            start = time.perf_counter()
            run()
            if time.perf_counter() - start > LONGEST_RUN:
                return None
        return ratios_in_turns(runs, RUNS)[1]
    except Exception:  # ONNX Runtime's errors have no common class
        return None

"""Time of the stages of a conversion, whose functions are timed where they are called."""

from __future__ import annotations

import importlib
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def stage_times(
    work: Callable[[], object],
    stages: Mapping[str, Sequence[str]],
    clock: Callable[[], float],
) -> dict[str, float]:
    """Call a function; return the seconds of each stage, of `other`, and of the `whole`.

    Args:
        work: the function.
        stages: stage -> its timed functions, by the module of qqonnx that calls them.
        clock: function that returns seconds.
    """
    spent: dict[str, float] = defaultdict(float)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            start = clock()
            try:
                return function(*args, **named)
            finally:
                spent[stage] += clock() - start

        return call

    with ExitStack() as patches:
        for stage, names in stages.items():
            for name in names:
                module, function = f"qqonnx.{name}".rsplit(".", 1)
                found = getattr(importlib.import_module(module), function)
                patches.enter_context(patch(f"{module}.{function}", timed(stage, found)))
        start = clock()
        work()
        whole = clock() - start
    times = {stage: spent[stage] for stage in stages}
    return {**times, "other": whole - sum(times.values()), "whole": whole}

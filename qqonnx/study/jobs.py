"""Jobs on several processes, their results kept between runs."""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, Protocol

from qqonnx.cache import cache_folder
from qqonnx.study.cache import digest_of
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Result = dict[str, Any]


class Job(Protocol):
    """A measurement: picklable, and the same result whenever it runs."""

    @property
    def key(self) -> str:
        """All that the result depends on, but for the version of qqonnx."""

    @property
    def cost(self) -> float:
        """About how long it takes, in any unit that others share."""

    def run(self) -> Result:
        """Return the result: what JSON can hold."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    fresh: bool = False,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Result]:
    """Return the results of `jobs`, in their order.

    A result found in the cache is taken from there. An error ends the run; what has been
    measured until then stays in the cache.

    Args:
        jobs: what to measure.
        workers: processes; 1 runs the jobs in this one.
        fresh: measure again what the cache holds.
        progress: called with the cost of each finished job.
    """
    folder = cache_folder("study") / "results"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{digest_of(__version__, job.key)}.json" for job in jobs]
    results: list[Result | None] = [None] * len(jobs)
    todo = []
    for at, (job, file) in enumerate(zip(jobs, files, strict=True)):
        if not fresh and file.exists():
            results[at] = json.loads(file.read_text("utf-8"))
            progress(job.cost)
        else:
            todo.append(at)

    def keep(at: int, result: Result) -> None:
        partial = files[at].with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(result), "utf-8")
        partial.replace(files[at])
        # What is returned is what a later run finds.
        results[at] = json.loads(json.dumps(result))
        progress(jobs[at].cost)

    if workers == 1:
        for at in todo:
            keep(at, jobs[at].run())
    elif todo:
        # Forking a process that has run ONNX Runtime's threads may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(todo)), context) as pool:
            waiting = {pool.submit(jobs[at].run): at for at in todo}
            try:
                for future in as_completed(waiting):
                    keep(waiting[future], future.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [result for result in results if result is not None]

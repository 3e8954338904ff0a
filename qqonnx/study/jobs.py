"""Jobs run in several processes; results are cached between runs."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.cache import cache_folder
from qqonnx.study.models import StudyModel, digest_of
from qqonnx.temporary import atomic_write
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

Result = Any
"""A result that JSON can hold."""

Progress = Callable[[str, float, float], None]
"""Called with the name of a stage, the cost just done and the cost of the whole stage."""


@dataclass(frozen=True)
class Measurement:
    """A call of a function that gives the same result every time.

    Attributes:
        function: a function of a module, so that other processes can import it; its result must
            be representable in JSON.
        arguments: its arguments; they identify the result.
        cost: the estimated run time, in a unit that all jobs of a stage share.
    """

    function: Callable[..., Result]
    arguments: tuple[Any, ...]
    cost: float

    @property
    def key(self) -> str:
        """The function's name and the arguments, models by their digest."""
        parts = (a.digest if isinstance(a, StudyModel) else repr(a) for a in self.arguments)
        return " ".join([self.function.__name__, *parts])

    def run(self) -> Result:
        """Call the function."""
        return self.function(*self.arguments)


def run_jobs(
    stage: str,
    jobs: Sequence[Measurement],
    *,
    workers: int,
    fresh: bool = False,
    progress: Progress = lambda *_: None,
) -> list[Result]:
    """Return the results of `jobs` in order, from the cache where possible.

    An error stops the run; results finished before it stay in the cache.

    Args:
        stage: the name of the stage, for `progress`.
        jobs: the measurements.
        workers: number of processes; with 1 the jobs run in this process.
        fresh: whether to ignore cached results.
        progress: called at the start and after each job.
    """
    total = sum(job.cost for job in jobs)
    progress(stage, 0, total)
    folder = cache_folder("study") / "results"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{digest_of(__version__, job.key)}.json" for job in jobs]
    results: list[Result | None] = [None] * len(jobs)
    todo = []
    for index, (job, file) in enumerate(zip(jobs, files, strict=True)):
        if not fresh and file.exists():
            results[index] = json.loads(file.read_text("utf-8"))
            progress(stage, job.cost, total)
        else:
            todo.append(index)

    def store(index: int, result: Result) -> None:
        with atomic_write(files[index]) as file:
            file.write_text(json.dumps(result), "utf-8")
        # A later run reads the JSON: return the same now.
        results[index] = json.loads(json.dumps(result))
        progress(stage, jobs[index].cost, total)

    if workers == 1:
        for index in todo:
            store(index, jobs[index].run())
    elif todo:
        # A forked process may hang if ONNX Runtime has started threads before.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(todo)), context) as pool:
            waiting = {pool.submit(jobs[index].run): index for index in todo}
            try:
                for future in as_completed(waiting):
                    store(waiting[future], future.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [result for result in results if result is not None]

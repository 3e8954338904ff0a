"""Execution on the workers of a Dask cluster (extra `cluster`)."""

from __future__ import annotations

import asyncio
import threading
import warnings
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.errors import OptionError, QqonnxError, first_line
from qqonnx.extras import import_extra
from qqonnx.model.load import model_files, read
from qqonnx.sweep.execute import MODEL, RunError, execute
from qqonnx.sweep.machine import has_package, reset_peak
from qqonnx.sweep.sources import Source, digest_of, digest_of_feeds
from qqonnx.temporary import atomic_write, temporary_folder
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from qqonnx.sweep.grid import Run

    Files = dict[str, bytes]

TOPIC = "qqonnx-sweep"
"""Topic of the events that workers log when they start a run."""

CONNECT_SECONDS = 10
WORKER_SECONDS = 60

_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)
"""Two names of one class since Python 3.11."""

_ONE_AT_A_TIME = threading.Lock()


class Cluster:
    """An executor with the workers of a running Dask cluster, each with one run at a time.

    Workers need qqonnx and the data sets at the same paths. Models are sent to them, and
    compressed models are sent back. If a worker is lost, Dask restarts its run on another one.
    """

    def __init__(self, address: str, on_start: Callable[[str, str], None]) -> None:
        """Connect to a cluster.

        Args:
            address: address of the scheduler, such as tcp://host:8786.
            on_start: called from another thread with a run's key and the worker that starts it.

        Raises:
            OptionError: the scheduler does not answer, or has no workers.
            QqonnxError: Dask is not installed.
        """
        distributed = import_extra("distributed", "cluster")
        try:
            # Unlike this, a client that cannot connect keeps trying while the program exits.
            asyncio.run(_connect(address))
            self._client = distributed.Client(
                address, timeout=CONNECT_SECONDS, set_as_default=False
            )
        except (OSError, ValueError, *_TIMEOUTS) as error:
            raise OptionError("scheduler", f"{address}: {first_line(error)}") from error
        try:
            self._client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except _TIMEOUTS as error:
            self._client.close()
            raise OptionError("scheduler", f"{address}: has no workers") from error
        self._client.subscribe_topic(TOPIC, lambda event: on_start(*event[1]))
        self._sent: dict[str, Any] = {}
        # Dask cancels a task that nothing refers to.
        self._tasks: set[Any] = set()

    def capacity(self) -> int:
        """Return the number of runs that are executed at once: the current number of workers."""
        return len(self._client.nthreads())

    def installed(self, package: str) -> bool:
        """Return whether all current workers have a package."""
        answers = self._client.run(has_package, package)
        return bool(answers) and all(answers.values())

    def submit(self, run: Run, target: Path) -> Future[dict[str, Any]]:
        """Start a run whose model is sent back to `target`."""
        model = self._model(run.model)
        task = self._client.submit(_execute, run, model, __version__, pure=False)
        self._tasks.add(task)
        future: Future[dict[str, Any]] = Future()

        def ended(done: Any) -> None:
            _hand_over(done, future, target)
            self._tasks.discard(task)

        task.add_done_callback(ended)
        return future

    def close(self) -> None:
        """Disconnect; the cluster drops all runs."""
        self._client.close()

    def _model(self, model: Source) -> Any:
        """Return the model's files as a Dask future, which sends them to the cluster once."""
        if model.digest not in self._sent:
            files = {
                file.name: file.read_bytes() for file in model_files(read(model.path), model.path)
            }
            with warnings.catch_warnings():
                # Dask recommends scattering large data, but scattered data is lost with its
                # workers, whereas a task's result is computed again.
                warnings.simplefilter("ignore")
                self._sent[model.digest] = self._client.submit(_unchanged, files, pure=False)
        return self._sent[model.digest]


async def _connect(address: str) -> None:
    from distributed.core import connect

    await (await connect(address, timeout=CONNECT_SECONDS)).close()


def _hand_over(task: Any, future: Future[dict[str, Any]], target: Path) -> None:
    """Copy a task's outcome to a future; called in one of Dask's threads."""
    try:
        row, files = task.result()
        for name, content in files.items():
            target.with_name(name).write_bytes(content)
    except (QqonnxError, RunError) as error:
        future.set_exception(error)
    except BaseException as error:  # Dask's error for a cancelled task is not an Exception
        future.set_exception(RunError(f"lost on the cluster: {RunError.from_exception(error)}"))
    else:
        future.set_result(row)


def _unchanged(files: Files) -> Files:
    return files


def _execute(run: Run, model: Files, version: str) -> tuple[dict[str, Any], Files]:
    """Execute a run in a worker; return columns of the results, and the files of its model."""
    from distributed import get_worker

    worker = get_worker()
    # Runs in one process would share its peak memory and ONNX Runtime's default options.
    with _ONE_AT_A_TIME:
        worker.log_event(TOPIC, (run.key, worker.address))
        if version != __version__:
            raise QqonnxError(f"{worker.address} has qqonnx {__version__}, not {version}")
        calibration = run.calibration.data if run.calibration is not None else None
        for source in (run.dataset, calibration):
            if source is not None and _digest_here(source) != source.digest:
                raise QqonnxError(f"{source.data}: holds something else on {worker.address}")
        # Dask deletes the worker's local directory when the worker exits.
        copies = Path(worker.local_directory) / f"qqonnx-{run.model.digest}"
        if not copies.is_dir():
            with atomic_write(copies) as folder:
                folder.mkdir()
                for name, content in model.items():
                    (folder / name).write_bytes(content)
        local = replace(run, model=replace(run.model, path=copies / run.model.path.name))
        with temporary_folder() as folder:
            row = {**execute(local, folder / MODEL), "worker": worker.address}
            if not reset_peak():
                # The measured value is the peak of all runs of this worker.
                row["peak_rss_bytes"] = None
            files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return row, files


@lru_cache(maxsize=8)
def _digest_here(source: Source) -> str:
    if source.function is not None:
        return digest_of_feeds(source.function, source.path)
    return digest_of(source.path)

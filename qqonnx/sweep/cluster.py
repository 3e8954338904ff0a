"""Workers of a Dask cluster (extra `cluster`)."""

from __future__ import annotations

import asyncio
import threading
import warnings
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.load import model_files, read
from qqonnx.sweep.grid import Run, Source, digest_of
from qqonnx.sweep.machine import has_package, restart_peak
from qqonnx.sweep.perform import MODEL, RunError, perform
from qqonnx.temporary import temporary_folder
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    Files = dict[str, bytes]

TOPIC = "qqonnx-sweep"
"""Where workers tell what they begin."""

CONNECT_SECONDS = 10
WORKER_SECONDS = 60

_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)
"""The same since Python 3.11."""

_ONE_AT_A_TIME = threading.Lock()


class Cluster:
    """A Dask cluster that somebody runs; each of its worker processes does one run at a time.

    Workers need qqonnx and the data sets, at the same paths; models are sent to them, and what
    they make is sent back. A run whose worker is lost is begun again by the scheduler, elsewhere.
    """

    def __init__(self, address: str, begun: Callable[[str, str], None]) -> None:
        """Connect.

        Args:
            address: of the scheduler, such as tcp://host:8786.
            begun: called from another thread with a run's key and the worker that begins it.

        Raises:
            QqonnxError: the package is missing, or nothing answers.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise QqonnxError('--scheduler takes Dask: pip install "qqonnx[cluster]"') from error
        try:
            # A client that does not get through would go on trying when the program ends.
            asyncio.run(_connect(address))
            self._client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, *_TIMEOUTS) as error:
            raise QqonnxError(f"--scheduler {address}: {first_line(error)}") from error
        try:
            self._client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except _TIMEOUTS as error:
            self._client.close()
            raise QqonnxError(f"--scheduler {address}: has no workers") from error
        self._client.subscribe_topic(TOPIC, lambda event: begun(*event[1]))
        self._sent: dict[str, Any] = {}
        # A task that nobody holds is given up.
        self._tasks: set[Any] = set()

    def capacity(self) -> int:
        """Return how many runs are done at once: the workers there are just now."""
        return len(self._client.nthreads())

    def installed(self, package: str) -> bool:
        """Return whether all the workers there are have a package."""
        found = self._client.run(has_package, package)
        return bool(found) and all(found.values())

    def submit(self, run: Run, target: Path) -> Future[dict[str, Any]]:
        """Do a run; the model comes back to `target`."""
        model = self._model(run.model)
        task = self._client.submit(_perform, run, model, __version__, pure=False)
        self._tasks.add(task)
        future: Future[dict[str, Any]] = Future()

        def ended(done: Any) -> None:
            _hand_over(done, future, target)
            self._tasks.discard(task)

        task.add_done_callback(ended)
        return future

    def close(self) -> None:
        """Leave; the cluster forgets what was asked of it."""
        self._client.close()

    def _model(self, model: Source) -> Any:
        """Return the model's files as data on the cluster."""
        if model.digest not in self._sent:
            files = {
                file.name: file.read_bytes() for file in model_files(read(model.path), model.path)
            }
            with warnings.catch_warnings():
                # Dask would have large data scattered; but what is scattered is lost with the
                # workers that hold it, and what a task returns is made again.
                warnings.simplefilter("ignore")
                self._sent[model.digest] = self._client.submit(_held, files, pure=False)
        return self._sent[model.digest]


async def _connect(address: str) -> None:
    from distributed.core import connect

    await (await connect(address, timeout=CONNECT_SECONDS)).close()


def _hand_over(task: Any, future: Future[dict[str, Any]], target: Path) -> None:
    """Pass on how a task ended; this is called in a thread of Dask's."""
    try:
        row, files = task.result()
        for name, content in files.items():
            target.with_name(name).write_bytes(content)
    except (QqonnxError, RunError) as error:
        future.set_exception(error)
    except BaseException as error:  # of Dask's errors, a cancelled task is no Exception
        future.set_exception(RunError(f"lost on the cluster: {RunError.told(error)}"))
    else:
        future.set_result(row)


def _held(files: Files) -> Files:
    return files


def _perform(run: Run, model: Files, version: str) -> tuple[dict[str, Any], Files]:
    """Do a run in a worker; returns columns of the results, and the files it made."""
    from distributed import get_worker

    worker = get_worker()
    # Threads of one process would count each other's memory, and share ONNX Runtime's options.
    with _ONE_AT_A_TIME:
        worker.log_event(TOPIC, (run.key, worker.address))
        if version != __version__:
            raise QqonnxError(f"{worker.address} has qqonnx {__version__}, not {version}")
        calibration = run.calibration.data if run.calibration is not None else None
        for source in (run.dataset, calibration):
            if source is not None and _digest_here(source.path) != source.digest:
                raise QqonnxError(f"{source.path}: holds something else on {worker.address}")
        # Dask clears this folder away when the worker ends.
        home = Path(worker.local_directory) / f"qqonnx-{run.model.digest}"
        if not home.is_dir():
            with temporary_folder(home.parent) as unfinished:
                for name, content in model.items():
                    (unfinished / name).write_bytes(content)
                unfinished.replace(home)
        here = replace(run, model=replace(run.model, path=home / run.model.path.name))
        with temporary_folder() as folder:
            row = {**perform(here, folder / MODEL), "worker": worker.address}
            if not restart_peak():
                # What was measured is the peak of all runs of this worker.
                row["peak_rss_bytes"] = None
            files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return row, files


_digest_here = lru_cache(maxsize=8)(digest_of)

"""A pool of worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.sweep.machine import has_package, restart_peak
from qqonnx.sweep.perform import RunError, perform, perform_timing
from qqonnx.sweep.threads import inherited_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from qqonnx.sweep.grid import Run

_DIED = "its worker process died: killed, out of memory, or a crash of a library"


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    pipe: Connection


class LocalPool:
    """Worker processes that are started when they are needed and used again.

    A worker that dies fails its run and is replaced. When this process dies, the workers end
    themselves.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self.threads = threads
        # Where the peak of a process's memory cannot begin anew, each run has its own.
        self._reusable = restart_peak()
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)  # a place for a worker
        self._living: set[_Worker] = set()
        self._closed = False
        self._lock = threading.Lock()
        # A thread waits for each worker.
        self._waiting = ThreadPoolExecutor(workers)

    def capacity(self) -> int:
        """Return how many runs are done at once."""
        return self.workers

    def installed(self, package: str) -> bool:
        """Return whether the workers have a package."""
        return has_package(package)

    def submit(self, run: Run, target: Path) -> Future[dict[str, Any]]:
        """Do a run; the model goes to `target`."""
        return self._waiting.submit(self._call, perform, run, target)

    def submit_timing(self, run: Run, path: Path, repeats: int) -> Future[dict[str, Any]]:
        """Measure times of a model that was made."""
        return self._waiting.submit(self._call, perform_timing, run, path, repeats)

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        with self._lock:
            self._closed = True
            for worker in self._living:
                worker.process.kill()
        self._waiting.shutdown(cancel_futures=True)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        worker = self._idle.get()
        try:
            worker = worker or self._started()
            worker.pipe.send((function, arguments))
            outcome = worker.pipe.recv()
            if not self._reusable:
                self._ended(worker)
                worker = None
        except (EOFError, OSError) as error:
            if worker is not None:
                self._ended(worker)
                worker = None
            raise RunError(_DIED) from error
        finally:
            self._idle.put(worker)
        if isinstance(outcome, Exception):
            raise outcome
        result: dict[str, Any] = outcome
        return result

    def _started(self) -> _Worker:
        # Forking a process that has threads, as ONNX Runtime's, may hang.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with self._lock:
            if self._closed:
                raise RunError("the sweep was ended")
            with inherited_threads(self.threads):
                process.start()
            worker = _Worker(process, ours)
            self._living.add(worker)
        # With our copy closed, the pipe ends when the worker does.
        theirs.close()
        return worker

    def _ended(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        with self._lock:
            self._living.discard(worker)


def _serve(pipe: Connection) -> None:
    """Do what comes through the pipe, until it ends."""
    # Ctrl-C is sent to all processes of a terminal; the sweep ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print is no result.
    os.dup2(2, 1)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            outcome = function(*arguments)
        except (QqonnxError, RunError) as error:
            outcome = error
        except Exception as error:
            outcome = RunError.told(error)
        pipe.send(outcome)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

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
from qqonnx.sweep.execute import RunError, execute, execute_timing
from qqonnx.sweep.machine import has_package, reset_peak
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
    """An executor with worker processes on this machine.

    Workers are started on demand and reused. If a worker dies, its run fails and the worker is
    replaced. If this process dies, the workers exit.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self.threads = threads
        # Where peak memory cannot be reset, each run needs a new process.
        self._reusable = reset_peak()
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)  # a worker that has not been started
        self._living: set[_Worker] = set()
        self._closed = False
        self._lock = threading.Lock()
        # One thread waits for each worker.
        self._waiting = ThreadPoolExecutor(workers)

    def capacity(self) -> int:
        """Return the number of runs that are executed at once."""
        return self.workers

    def installed(self, package: str) -> bool:
        """Return whether the workers have a package."""
        return has_package(package)

    def submit(self, run: Run, target: Path) -> Future[dict[str, Any]]:
        """Start a run that writes its model to `target`."""
        return self._waiting.submit(self._call, execute, run, target)

    def submit_timing(self, run: Run, path: Path, repeats: int) -> Future[dict[str, Any]]:
        """Start the measurement of a model's load time and latency."""
        return self._waiting.submit(self._call, execute_timing, run, path, repeats)

    def close(self) -> None:
        """Kill the workers."""
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
        # A forked process may hang if ONNX Runtime has started threads before.
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
        # Without this copy, the pipe closes when the worker exits.
        theirs.close()
        return worker

    def _ended(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        with self._lock:
            self._living.discard(worker)


def _serve(pipe: Connection) -> None:
    """Call the functions that come through the pipe until it closes."""
    # A terminal sends Ctrl-C to all its processes; the sweep kills its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # stdout is for the summary; redirect what libraries print.
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
            outcome = RunError.from_exception(error)
        pipe.send(outcome)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

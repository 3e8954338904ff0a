"""Folders for files in the making: gone when the work ends, by whatever way, Ctrl-C included."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Give a new empty folder in `parent`, by default where the system keeps temporary files.

    Raises:
        OSError: it cannot be made.
    """
    folder = None
    try:
        with uninterrupted():
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=".qqonnx-" if parent else "qqonnx-"))
        yield folder
    finally:
        with uninterrupted():
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done, for steps that must not be left half-way."""
    # Signals reach Python code in the main thread only; Windows has no masks.
    if not hasattr(signal, "pthread_sigmask") or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Temporary folders and atomic writes: an interrupted process leaves no partial file behind."""

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
    """Create an empty folder that is deleted when the block ends, on Ctrl-C too.

    Args:
        parent: where the folder is created; by default in the system's temporary folder.

    Raises:
        OSError: the folder cannot be created.
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
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the block ends without an error.

    The block creates a file or a folder there. Other files that it creates in the same temporary
    folder, such as external data, move to the folder of `path` first. After an error nothing is
    left and `path` is as it was.

    Args:
        path: the file to write, or the folder to create; its parent folder exists.

    Raises:
        OSError: `path` cannot be written.
    """
    with temporary_folder(path.parent) as folder:
        written = folder / path.name
        yield written
        with uninterrupted():
            for other in folder.iterdir():
                if other != written:
                    other.replace(path.with_name(other.name))
            written.replace(path)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block ends, for steps that must not stop half-way."""
    # Python handles signals in the main thread only; Windows has no signal masks.
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

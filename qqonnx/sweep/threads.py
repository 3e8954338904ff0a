"""Limits on the threads of ONNX Runtime, its quantizers, and other packages."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@contextmanager
def session_threads(count: int) -> Iterator[None]:
    """Give every session that is opened in the block `count` threads by default.

    ONNX Runtime has no such setting for a process, and its calibrator does not expose the options
    of its sessions. Therefore `onnxruntime.SessionOptions` is replaced within the block, which is
    not thread-safe.
    """
    plain: Any = ort.SessionOptions

    class Bounded(plain):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = count
            self.inter_op_num_threads = 1

    ort.SessionOptions = Bounded
    try:
        yield
    finally:
        ort.SessionOptions = plain


@contextmanager
def inherited_threads(count: int) -> Iterator[None]:
    """Give numpy and PyTorch `count` threads in processes that are started in the block."""
    before = {name: os.environ.get(name) for name in _BLAS}
    os.environ.update(dict.fromkeys(_BLAS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""A bound on the threads of ONNX Runtime, its quantizers' and other packages' included."""

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
    """Let every session that is opened in the block have `count` threads.

    ONNX Runtime has no such setting for a process, and takes as many threads as there are cores
    where a session's options do not say; its calibrator gives no way to say it. So the class of
    the options is another one meanwhile, which says it. One block at a time in a process.
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
    """Let numpy and PyTorch have `count` threads in processes that are started in the block."""
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

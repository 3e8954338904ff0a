"""One thread for numpy's linear algebra: its results depend on how many there are."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep OpenBLAS, which numpy's wheels bring along, to one thread.

    It splits products and factorizations among its threads, which rounds their sums otherwise;
    allocation and error feedback make other files of that. numpy with another library is left as
    it is.
    """
    found = _openblas()
    if found is None:
        yield
        return
    get, put = found
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    package = Path(np.__file__).parent
    files = [*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")]
    for file in files:
        # Loaded by numpy already, so this is the library that it uses.
        library = ctypes.CDLL(str(file))
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", ""):
                get = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
                put = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                if get is not None and put is not None:
                    return get, put
    return None

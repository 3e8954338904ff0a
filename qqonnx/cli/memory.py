"""A bound on the memory that a command may take, whatever the file it was given holds."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE_BYTES = 4 * 2**30
"""Allowed for any file: libraries, threads, and what running the model takes."""

BYTES_PER_BYTE = 16
"""Allowed for each byte of the files read; sorting a weight takes the most."""


@contextmanager
def limited_memory(file_bytes: int) -> Iterator[None]:
    """Let this process take `BASE_BYTES` more, and `BYTES_PER_BYTE` for each byte of its files.

    What asks for more fails with an error of its own, as if the machine had no more. Works on
    Linux only; elsewhere nothing happens. The limit is one of the whole process, so this is for
    commands, not for programs that use qqonnx as a library.

    Args:
        file_bytes: size of the files that are read.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    status = Path("/proc/self/status").read_text("ascii")
    used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    allowed = used * 1024 + BASE_BYTES + BYTES_PER_BYTE * file_bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    ceilings = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([allowed, *ceilings]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

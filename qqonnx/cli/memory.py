"""A limit on the memory of a command, for files that are damaged or malicious."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE_BYTES = 4 * 2**30
"""Allowance for libraries, threads, and a run of the model."""

BYTES_PER_BYTE = 16
"""Allowance per byte of the models; sorting a weight takes the most."""


@contextmanager
def limited_memory(file_bytes: int) -> Iterator[None]:
    """Limit the memory that this process allocates within the block.

    It may allocate `BASE_BYTES`, and `BYTES_PER_BYTE` per byte of its models. Larger allocations
    fail, as if the machine had no more memory. The limit holds for the whole process, so it is for
    commands, not for programs that use qqonnx as a library. It has an effect on Linux only.

    Args:
        file_bytes: size of the models in bytes.
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

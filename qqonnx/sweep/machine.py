"""Versions, hardware and memory use, as recorded with each run."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from qqonnx.parallel import available_cores

_PACKAGES = ("qqonnx", "onnxruntime", "onnx", "onnx-ir", "numpy", "torch", "coremltools", "nncf")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


@lru_cache(maxsize=1)
def hardware() -> dict[str, object]:
    """Return architecture, system, processor, number of cores, and memory in bytes."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": available_cores(),
        "memory": _memory(),
    }


def has_package(name: str) -> bool:
    """Return whether this process can import a package."""
    return find_spec(name) is not None


def reset_peak() -> bool:
    """Reset the peak memory of this process; return False where that is not possible.

    Only Linux supports it.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Return the peak resident memory of this process in bytes; None if unknown."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None

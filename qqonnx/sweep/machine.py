"""What a run ran on, and the memory it took."""

from __future__ import annotations

import os
import platform
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from qqonnx.parallel import available_cores

_PACKAGES = ("qqonnx", "onnxruntime", "onnx", "onnx-ir", "numpy", "torch", "coremltools", "nncf")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203 - a few packages
            continue
    return found


@lru_cache(maxsize=1)
def hardware() -> dict[str, object]:
    """Return what is known of this machine: its name, processor, cores and memory in bytes."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": available_cores(),
        "memory": _memory(),
    }


def has_package(name: str) -> bool:
    """Return whether this process finds a package."""
    return find_spec(name) is not None


def restart_peak() -> bool:
    """Let the peak memory of this process begin anew; False where it cannot (only Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Return the peak resident memory of this process in bytes, if it is known."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if named:
            return named[0]
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None

"""The cache folder: results and models that can be computed again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path:
    """Return $XDG_CACHE_HOME/qqonnx/PART, or ~/.cache/qqonnx/PART where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "qqonnx" / part

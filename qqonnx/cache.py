"""Where what can be computed again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path:
    """Return the folder of a part of qqonnx: XDG_CACHE_HOME or ~/.cache, qqonnx, its name."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "qqonnx" / part

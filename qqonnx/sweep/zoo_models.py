"""Models by name: exported once, and kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def exported(model: Path | str, weights: str) -> Path:
    """Return a model's file; one that is named is exported into the cache folder.

    Args:
        model: an ONNX file, or a name that `qqonnx export` knows.
        weights: for a name: as for `qqonnx export`.

    Raises:
        QqonnxError: there is no such model, or PyTorch is missing.
    """
    if isinstance(model, Path):
        return model
    from qqonnx.zoo import export

    home = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(home) if home else Path.home() / ".cache") / "qqonnx" / "models"
    which = hashlib.sha256(weights.encode()).hexdigest()[:8]
    path = cache / which / f"{model}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        export(model, path, weights=weights)
    return path

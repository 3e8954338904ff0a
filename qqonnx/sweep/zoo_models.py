"""Models by name: exported once, and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qqonnx.cache import cache_folder


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

    which = hashlib.sha256(weights.encode()).hexdigest()[:8]
    path = cache_folder("models") / which / f"{model}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        export(model, path, weights=weights)
    return path

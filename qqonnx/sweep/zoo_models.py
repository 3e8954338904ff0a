"""Models by name: exported once, then kept in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qqonnx.cache import cache_folder


def model_file(model: Path | str, weights: str) -> Path:
    """Return the ONNX file of a model; export a model that is given by name unless cached.

    Args:
        model: an ONNX file, or a name that `qqonnx export` knows.
        weights: weights of a model that is given by name, as for `qqonnx export`.

    Raises:
        QqonnxError: there is no such model, or PyTorch is missing.
    """
    if isinstance(model, Path):
        return model
    from qqonnx.zoo import export

    digest = hashlib.sha256(weights.encode()).hexdigest()[:8]
    path = cache_folder("models") / digest / f"{model}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        export(model, path, weights=weights)
    return path

"""Make an ONNX model several times smaller and still run it in a stock ONNX Runtime.

The commands as functions: `export`, `compress`, `compress_folder`, `inspect`, `verify`, `restore`,
`evaluate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qqonnx.errors import OptionError, QqonnxError
from qqonnx.version import __version__

if TYPE_CHECKING:
    from qqonnx.compression.inspect import inspect
    from qqonnx.compression.pipeline import compress
    from qqonnx.compression.restore import restore
    from qqonnx.compression.verify import verify
    from qqonnx.config import Calibration, Options, Target
    from qqonnx.evaluation import evaluate
    from qqonnx.folders.compress import compress_folder
    from qqonnx.zoo import export

__all__ = [
    "Calibration",
    "OptionError",
    "Options",
    "QqonnxError",
    "Target",
    "__version__",
    "compress",
    "compress_folder",
    "evaluate",
    "export",
    "inspect",
    "restore",
    "verify",
]

_HOMES = {
    "Calibration": "qqonnx.config",
    "Options": "qqonnx.config",
    "Target": "qqonnx.config",
    "compress": "qqonnx.compression.pipeline",
    "compress_folder": "qqonnx.folders.compress",
    "evaluate": "qqonnx.evaluation",
    "export": "qqonnx.zoo",
    "inspect": "qqonnx.compression.inspect",
    "restore": "qqonnx.compression.restore",
    "verify": "qqonnx.compression.verify",
}


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used, so that `import qqonnx` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

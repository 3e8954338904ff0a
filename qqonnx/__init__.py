"""Make an ONNX model several times smaller and still run it in a stock ONNX Runtime.

The command line's verbs as functions: `export`, `compress`, `inspect`, `restore`, `evaluate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.version import __version__

if TYPE_CHECKING:
    from qqonnx.calibration.request import Calibration, Target
    from qqonnx.compression import compress, restore
    from qqonnx.evaluation import evaluate
    from qqonnx.inspection import inspect
    from qqonnx.plan import Options
    from qqonnx.zoo import export

__all__ = [
    "Calibration",
    "Options",
    "QqonnxError",
    "Target",
    "__version__",
    "compress",
    "evaluate",
    "export",
    "inspect",
    "restore",
]

_HOMES = {
    "Calibration": "qqonnx.calibration.request",
    "Options": "qqonnx.plan",
    "Target": "qqonnx.calibration.request",
    "compress": "qqonnx.compression",
    "evaluate": "qqonnx.evaluation",
    "export": "qqonnx.zoo",
    "inspect": "qqonnx.inspection",
    "restore": "qqonnx.compression",
}


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used, so that `import qqonnx` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from qqonnx.errors import QqonnxError


def import_extra(module: str, extra: str = "export") -> Any:
    """Import `module`, which the extra `qqonnx[extra]` installs.

    Raises:
        QqonnxError: It is not installed; says which extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = error.name or module
        raise QqonnxError(f'{name} is not installed: run pip install "qqonnx[{extra}]"') from error

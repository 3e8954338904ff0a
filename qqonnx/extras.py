"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from qqonnx.errors import QqonnxError, first_line


def import_extra(module: str, extra: str) -> Any:
    """Import `module`, which the extra `qqonnx[extra]` installs.

    Raises:
        QqonnxError: the package, or one that it needs, is not installed, or it is installed and
            fails while it is imported, as torchvision does beside another version of PyTorch.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        # A missing submodule of another package ("torch._six") belongs to another version of it.
        if isinstance(error, ModuleNotFoundError) and error.name in (module, _package(error.name)):
            reason = f"{error.name} is not installed: run pip install"
        else:
            reason = (
                f"{_package(module)} is installed but cannot be imported "
                f"({type(error).__name__}: {first_line(error)}); it may not fit the version of a "
                "package that it needs: run pip install --force-reinstall"
            )
        raise QqonnxError(f'{reason} "qqonnx[{extra}]"') from error


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]

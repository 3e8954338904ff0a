"""Functions that a user names as module:function."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from qqonnx.errors import QqonnxError, first_line


def is_function_name(text: str) -> bool:
    """Return whether a text has the form module:function, and is no path."""
    return re.fullmatch(r"[\w.]+:[\w.]+", text) is not None and not Path(text).exists()


def named_object(name: str) -> Any:
    """Return the object that is named as module:object.

    The module is looked for in the working directory too.

    Raises:
        QqonnxError: there is no such object, or importing its module raises an error.
    """
    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module raises
        raise QqonnxError(f"{name}: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path.remove(str(Path.cwd()))

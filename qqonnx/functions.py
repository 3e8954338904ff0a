"""Functions that a user names as module:function."""

from __future__ import annotations

import importlib
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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


@contextmanager
def importable(folders: Iterable[Path]) -> Iterator[None]:
    """Find modules in these folders too, within the block."""
    added = [str(folder) for folder in folders]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)

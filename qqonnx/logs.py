"""Suppression of log messages of other packages."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def logging_disabled(level: int = logging.WARNING) -> Iterator[None]:
    """Suppress log messages of `level` and below while the block runs."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)

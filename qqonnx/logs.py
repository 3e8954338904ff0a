"""What other packages log, kept from the user."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def logging_disabled(level: int = logging.WARNING) -> Iterator[None]:
    """Let nothing of `level` or below be logged while the block runs."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)

"""Sizes and shares as a user writes them."""

from __future__ import annotations

import re

from qqonnx.errors import OptionError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 2.5MB, 800kB, 3MiB or 120000.

    Raises:
        OptionError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise OptionError("target.size", f"must be a size such as 2.5MB, not {text}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_share(text: str) -> float:
    """Return a share such as 1% or 0.01 as a number.

    Raises:
        OptionError: the text is not a share.
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number)
    except ValueError as error:
        raise OptionError("target.max_drop", f"must be a share such as 1%, not {text}") from error
    return value / 100 if text.strip().endswith("%") else value

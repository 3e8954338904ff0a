"""Sizes of a file after the compression that web servers and browsers use for transfer."""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BROTLI_QUALITY = 9
"""The highest quality that takes seconds, not minutes, for a large model."""

ZSTD_LEVEL = 19
"""The highest level that browsers can decompress within their memory limit."""

_GZIP_WBITS = 31
"""For zlib: the largest window, with gzip's header and trailer."""

_CHUNK = 1 << 20


def gzip_bytes(path: Path) -> int:
    """Return the size of a file after gzip."""
    compressor = zlib.compressobj(9, wbits=_GZIP_WBITS)
    return _total(path, compressor.compress, compressor.flush)


def brotli_bytes(path: Path) -> int | None:
    """Return the size of a file after brotli; None where the package is not installed."""
    try:
        brotli = import_module("brotli")
    except ImportError:
        return None
    compressor = brotli.Compressor(quality=BROTLI_QUALITY)
    return _total(path, compressor.process, compressor.finish)


def zstd_bytes(path: Path) -> int | None:
    """Return the size of a file after zstd; None where the package is not installed."""
    try:
        zstandard = import_module("zstandard")
    except ImportError:
        return None
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
    return _total(path, compressor.compress, compressor.flush)


def _total(path: Path, feed: Callable[[bytes], bytes], end: Callable[[], bytes]) -> int:
    return sum(len(feed(chunk)) for chunk in _chunks(path)) + len(end())


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk

"""Sizes of a file after the compression that web servers and browsers use for transfer."""

from __future__ import annotations

import gzip
import io
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BROTLI_QUALITY = 9
"""The highest quality that takes seconds, not minutes, for a large model."""

ZSTD_LEVEL = 19
"""The highest level that browsers can decompress within their memory limit."""

_CHUNK = 1 << 20


def gzip_bytes(path: Path) -> int:
    """Return the size of a file after gzip."""
    counter = _Counter()
    with gzip.GzipFile(fileobj=counter, mode="wb", mtime=0) as target:
        for chunk in _chunks(path):
            target.write(chunk)
    return counter.total


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


class _Counter(io.RawIOBase):
    total = 0

    def write(self, data: Any) -> int:
        self.total += len(data)
        return len(data)


def _total(path: Path, feed: Callable[[bytes], bytes], end: Callable[[], bytes]) -> int:
    return sum(len(feed(chunk)) for chunk in _chunks(path)) + len(end())


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk

"""Sizes on the way."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from qqonnx.evaluation import transfer
from qqonnx.evaluation.runner import evaluate


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sizes_are_those_of_files_that_unpack(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(0).integers(0, 7, size, np.uint8).tobytes()
    path = tmp_path / "data"
    path.write_bytes(data)
    assert abs(transfer.gzip_bytes(path) - len(gzip.compress(data, mtime=0))) < 64
    brotli = pytest.importorskip("brotli")
    zstandard = pytest.importorskip("zstandard")
    packed = brotli.compress(data, quality=transfer.BROTLI_QUALITY)
    assert transfer.brotli_bytes(path) == pytest.approx(len(packed), rel=0.01, abs=16)
    assert brotli.decompress(packed) == data
    packed = zstandard.ZstdCompressor(level=transfer.ZSTD_LEVEL).compress(data)
    assert transfer.zstd_bytes(path) == pytest.approx(len(packed), rel=0.01, abs=16)
    # Three of eight bits hold all there is.
    if size > 1:
        for packed_size in (transfer.brotli_bytes(path), transfer.zstd_bytes(path)):
            assert packed_size is not None
            assert np.log2(7) / 8 * size < packed_size < 0.45 * size


def test_without_the_packages(
    digits_model: Path, digits_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(transfer, "import_module", missing)
    result = evaluate([digits_model], digits_data, limit=4)
    assert result.rows[0].brotli_bytes is None
    assert result.rows[0].zstd_bytes is None
    assert "brotli MB" not in [column.header for column in result.table().columns]
    assert "brotli_bytes" in result.to_csv().splitlines()[0]

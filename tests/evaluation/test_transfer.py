"""Sizes on the way."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from building import Build, normal

from qqonnx import Options, compress
from qqonnx.config import plan_weights
from qqonnx.encoding.encode import decode_values, encode
from qqonnx.encoding.packing import unpack
from qqonnx.encoding.stored import digest
from qqonnx.evaluation import transfer
from qqonnx.evaluation.runner import evaluate
from qqonnx.model.load import load
from qqonnx.model.select import select


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


@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
def test_frequent_levels_have_low_numbers(build: Build, granularity: str) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,300] x) => (float[N,40] y) { y = MatMul(x, w) }"""
    weights, _ = select(load(build(text, {"w": normal(300, 40)})))
    for levels in (6, 8, 32):
        options = Options(levels=levels, granularity=granularity, method="uq")
        (entry,), _ = plan_weights(weights, options)
        quantized = encode(entry)
        indices = unpack(quantized.planes, quantized.storage, 300 * 40).reshape(300, 40)
        for part in indices.T if granularity == "channel" else [indices]:
            counts = np.bincount(part.reshape(-1), minlength=levels)
            assert (np.diff(counts) <= 0).all()
        decoded = decode_values(indices, quantized.codebook, quantized.scales, 1)
        assert digest(decoded) == quantized.digest()


def test_numbering_levels_makes_files_smaller_on_the_way(
    digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three bits of uniform levels, most of which are rare."""
    pytest.importorskip("brotli")
    options = Options(bits=3, method="uq")
    compress(digits_model, tmp_path / "numbered.onnx", options)

    def ascending(indices: np.ndarray, codebook: np.ndarray, _: object) -> tuple:
        counts = np.bincount(indices.reshape(-1), minlength=codebook.size)
        return indices, codebook, counts

    monkeypatch.setattr("qqonnx.encoding.encode.by_frequency", ascending)
    compress(digits_model, tmp_path / "ascending.onnx", options)
    numbered, plain = tmp_path / "numbered.onnx", tmp_path / "ascending.onnx"
    assert abs(numbered.stat().st_size - plain.stat().st_size) < 100
    assert transfer.brotli_bytes(numbered) < 0.95 * transfer.brotli_bytes(plain)


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

"""Tables on narrow and wide terminals: no name is cut off."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from building import Build, normal
from rich.console import Console

from qqonnx import Options, compress, inspect
from qqonnx.cli.tables import compress_summary, inspection_summary
from qqonnx.evaluation import Evaluation, Row

NAME = "features.12.block.1.attention.in_proj_weight"
MODEL = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,64] x) => (float[N,96] y) { y = MatMul(x, w) }"""


def text_of(width: int, show: Callable[[Console], None]) -> str:
    file = io.StringIO()
    show(Console(width=width, file=file))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_weights(build: Build, tmp_path: Path, width: int) -> None:
    model = build(MODEL, {"w": normal(64, 96)})
    packed = tmp_path / "packed.onnx"
    report = compress(model, packed, Options(bits=4, granularity="scale"))
    inspection = inspect(packed)
    for show in (
        lambda console: compress_summary(report, console),
        lambda console: inspection_summary(inspection, console),
    ):
        lines = text_of(width, show).splitlines()
        assert lines[1].split()[:2] == ["w", "64×96"]
        assert "24,576" in lines[1]
        assert "…" not in lines[1]


@pytest.mark.parametrize("width", [80, 120])
def test_evaluation(width: int) -> None:
    row = Row(
        model=NAME,
        samples=100,
        top1=0.85,
        top5=0.96,
        agreement=0.99,
        kl=0.0022,
        cosine=0.99,
        sqnr=31.2,
        relative_error=0.02,
        max_difference=0.3,
        bytes=4_872_731,
        gzip_bytes=4_730_521,
        brotli_bytes=None,
        zstd_bytes=None,
        load_ratio=2.3,
        latency_ratio=0.61,
    )
    table = Evaluation((row, row), True, "", "", "", ()).table()
    found = text_of(width, lambda console: console.print(table))
    assert "…" not in found
    first_column = "".join(line.split()[0] for line in found.splitlines()[1:])
    assert first_column.count(NAME) >= 1
    assert "2.30" in found

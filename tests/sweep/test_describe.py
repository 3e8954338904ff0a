"""Histograms of weights, for every form in which decode nodes hold levels and scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from building import Build, normal

from qqonnx import Options, compress
from qqonnx.sweep.describe import histograms_of
from qqonnx.sweep.sources import Source

MATMUL = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,ROWS] x) => (float[N,M] y) { y = MatMul(x, w) }"""
CONV = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,ROWS,9,9] x) => (float[N,M,H,W] y) { y = Conv(x, w) }"""


@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("text", "shape"),
    [(MATMUL, (2048, 96)), (MATMUL, (600, 50)), (CONV, (64, 128, 3, 3)), (CONV, (1, 400, 3, 3))],
)
def test_histograms_have_the_levels(
    build: Build, tmp_path: Path, text: str, shape: tuple[int, ...], bits: int, granularity: str
) -> None:
    rows = shape[1] if text == CONV else shape[0]
    model = build(text.replace("ROWS", str(rows)), {"w": normal(*shape)})
    packed = tmp_path / "packed.onnx"
    compress(model, packed, Options(bits=bits, granularity=granularity, method="uq"))
    [histogram] = histograms_of(Source("m", model, ""), packed)
    levels, edges = np.array(histogram["levels"]), np.array(histogram["edges"])
    assert 1 < levels.size <= 2**bits
    # The levels are uniform over the range of the histogram.
    steps = np.diff(levels)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-2)
    assert abs(levels[0] - edges[0]) <= steps.mean() * 1.01
    assert abs(levels[-1] - edges[-1]) <= steps.mean() * 1.01

"""Models whose outputs change their length when a weight changes: voices, boxes that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from qqonnx import Options, compress
from qqonnx.calibration.sensitivity import UNRELATED, output_losses
from qqonnx.model.load import load
from qqonnx.model.select import select

GRAPH = """<ir_version: 8, opset_import: ["": 17]>
m (float[8, 64] x) => (float[k] y, float[8, 64] z) {
  zero = Constant<value = float {0.0}>()
  flat = Constant<value = int64[1] {-1}>()
  h = MatMul(x, a)  above = Greater(h, zero)  where = Reshape(above, flat)
  values = Reshape(h, flat)  y = Compress<axis = 0>(values, where)
  z = MatMul(x, b)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = parser.parse_model(GRAPH)
    random = np.random.default_rng(0)
    for name in "ab":
        array = random.standard_normal((64, 64)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_another_length_is_a_loss(model: Path) -> None:
    loaded = load(model)
    weights = select(loaded)[0]
    batches = [{"x": np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)}]
    with output_losses(loaded, weights, batches, {}) as loss:
        a = numpy_helper.to_array(onnx.load(model).graph.initializer[0])
        assert loss({"a": a}) == 0
        assert loss({"a": a + np.float32(0.1)}) == pytest.approx(UNRELATED)
        overflow = np.full_like(a, np.float32(3e38))
        assert loss({"b": overflow}) >= UNRELATED / 2


def test_a_weight_that_changes_the_length_keeps_its_levels(model: Path, tmp_path: Path) -> None:
    report = compress(model, tmp_path / "small.onnx", Options(bits=4))
    levels = {weight.name: weight.levels for weight in report.weights}
    assert min(levels.values()) >= 8
    assert report.quality is not None
    assert "y" in report.quality.poor

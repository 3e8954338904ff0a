"""Parts of a model with int8 execution that keep float activations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir import from_proto

from qqonnx import Calibration, Options, compress
from qqonnx.integer.float_parts import MIN_DIVERGENCE, PAYS, float_parts, tail_of

DETECTOR = """<ir_version: 8, opset_import: ["": 13]>
m (float[N,16,12,12] x) => (float[N,10,M] y) {
    a = Conv(x, first)  b = Relu(a)
    c = Conv(b, box)  d = Exp(c)  e = Mul(d, pixels)  f = Reshape(e, boxes)
    g = Conv(b, score)  h = Add(g, shift)  i = Sigmoid(h)  j = Reshape(i, scores)
    y = Concat <axis = 1> (f, j)
}"""


def detector(build: Build) -> Path:
    arrays = {
        "first": 0.1 * normal(32, 16, 3, 3),
        "box": 0.05 * normal(4, 32, 3, 3, seed=1),
        "score": 0.05 * normal(6, 32, 3, 3, seed=2),
        "pixels": np.float32(100),
        "shift": np.float32(-5),
        "boxes": np.array([0, 4, -1]),
        "scores": np.array([0, 6, -1]),
    }
    return build(DETECTOR, arrays)


def test_scores_beside_pixels_keep_their_values(build: Build, tmp_path: Path) -> None:
    source, target = detector(build), tmp_path / "small.onnx"
    feeds = [{"x": normal(1, 16, 12, 12, seed=n)} for n in range(24)]
    options = Options(bits=8, compute="int8-static", int8_range=127, min_size=64)
    compress(source, target, options, calibration=Calibration(feeds[:16]))
    sessions = [ort.InferenceSession(path) for path in (source, target)]
    exact, small = (np.concatenate([s.run(None, f)[0] for f in feeds[16:]]) for s in sessions)
    for channel in range(10):
        error = np.square(exact[:, channel] - small[:, channel]).mean()
        assert error < 0.1 * exact[:, channel].var(), channel
    optimized = tmp_path / "optimized.onnx"
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(optimized)
    ort.InferenceSession(target, settings, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(optimized).graph.node]
    # The layers still multiply integers.
    assert "Conv" not in operators
    assert operators.count("QLinearConv") == 3


def test_the_tail_is_what_no_layer_depends_on(build: Build) -> None:
    model = from_proto(onnx.load(detector(build)))
    for number, node in enumerate(model.graph):
        node.name = f"{node.op_type}{number}"
    operators = [name.rstrip("0123456789") for name in tail_of(model)]
    assert sorted(operators) == sorted(
        ["Exp", "Mul", "Reshape", "Add", "Sigmoid", "Reshape", "Concat"]
    )


@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=20), st.data())
def test_parts_pay_and_are_small(costs: list[float], data: st.DataObject) -> None:
    """With losses that add up: what is found pays, and a layer that loses most is found alone."""
    layers = "\n".join(f"v{n + 1} = MatMul(v{n}, w{n})" for n in range(len(costs)))
    shape = "float[4,4]"
    weights = ", ".join(f"{shape} w{n} = {{{','.join(['1'] * 16)}}}" for n in range(len(costs)))
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> m ({shape} v0) => ({shape} v{len(costs)}) '
        f"<{weights}> {{ {layers} }}"
    )
    for number, node in enumerate(proto.graph.node):
        node.name = f"{number}"
    outlier = data.draw(st.integers(0, len(costs) - 1))
    if data.draw(st.booleans()):
        costs[outlier] = 10 * sum(costs)

    def loss(names: Sequence[str]) -> float:
        return sum(cost for number, cost in enumerate(costs) if f"{number}" not in names)

    before = loss([])
    found = float_parts(from_proto(proto), loss, before)
    if found:
        assert loss(found) <= PAYS * before
    if costs[outlier] >= 0.9 * before > MIN_DIVERGENCE:
        assert f"{outlier}" in found


@pytest.mark.parametrize("loss", [0.0, MIN_DIVERGENCE])
def test_little_loss_is_not_looked_into(build: Build, loss: float) -> None:
    def never(_: Sequence[str]) -> float:
        raise AssertionError

    assert float_parts(from_proto(onnx.load(detector(build))), never, loss) == []

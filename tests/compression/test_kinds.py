"""Kinds of models that were refused, or compressed badly, without a reason in the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from building import Build, normal

from qqonnx import Calibration, Options, compress, verify
from qqonnx.calibration.layers import layer_of
from qqonnx.model.load import load
from qqonnx.model.random import with_seeds
from qqonnx.model.select import select

RANDOM = {
    "normal": "n = RandomNormalLike(a)  y = Add(a, n)",
    "uniform": "s = Shape(a)  u = RandomUniform<shape = [1]>()  y = Mul(a, u)",
    "bernoulli": "p = Sigmoid(a)  n = Bernoulli(p)  y = Add(a, n)",
    "in a branch": """y = If(yes) <
        then_branch = t () => (float[N,M] p) { n = RandomNormalLike(a)  p = Add(a, n) },
        else_branch = e () => (float[N,M] q) { q = Identity(a) }>""",
}


@pytest.mark.parametrize("body", RANDOM.values(), ids=RANDOM)
def test_models_that_draw_random_numbers(build: Build, tmp_path: Path, body: str) -> None:
    """Both models of a comparison draw the same numbers; the written file draws as it did."""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[N,64] x) => (float[N,M] y) {{ a = MatMul(x, w)  {body} }}"""
    model = build(text, {"w": normal(64, 64), "yes": np.array(True)})
    report = compress(model, tmp_path / "o.onnx", Options(bits=8))
    assert report.outputs.equal
    assert report.outputs.reason is None
    assert report.quality.outputs[0].relative_error < 0.1
    assert verify(tmp_path / "o.onnx", tmp_path / "o.onnx").equal
    written = onnx.load(tmp_path / "o.onnx")
    assert b"seed" not in written.graph.SerializeToString()


def test_seeds_are_kept_and_models_without_are_read_from_their_path(
    build: Build, tmp_path: Path
) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,64] x) => (float[N,M] y) {
      a = RandomNormalLike<seed = 7.5>(x)  b = RandomNormalLike(x)  y = Add(a, b) }"""
    content = with_seeds(build(text, {}))
    assert isinstance(content, bytes)
    nodes = onnx.load_from_string(content).graph.node
    assert [node.attribute[0].f for node in nodes[:2]] == [7.5, 2]
    plain = build(text.replace("RandomNormalLike<seed = 7.5>", "Relu").replace(
        "RandomNormalLike", "Relu"), {}, "plain.onnx")  # fmt: skip
    assert with_seeds(plain) == plain


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_deep_models_of_weights_behind_a_cast(build: Build, tmp_path: Path, dtype: type) -> None:
    """The product of a level and a scale is rounded in one model and not in the other."""
    layers = range(12)
    body = "  ".join(
        f"c{i} = Cast<to = 1>(w{i})  v{i} = Conv<pads = [1, 1, 1, 1]>({f'r{i - 1}' if i else 'x'}"
        f", c{i})  r{i} = Relu(v{i})"
        for i in layers
    )
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[1,32,8,8] x) => (float[1,32,8,8] y) {{ {body}  y = Identity(r11) }}"""
    weights = {
        f"w{i}": (normal(32, 32, 3, 3, seed=i) * 0.083).astype(dtype) for i in layers
    }  # as after initialization
    options = Options(bits=4, granularity="scale")
    report = compress(build(text, weights), tmp_path / "o.onnx", options)
    assert report.outputs.equal
    assert report.outputs.tolerance == (1e-2 if dtype == np.float16 else 1e-3)


BEHIND = {
    "Transpose": ("v = Transpose<perm = [1, 0]>(w)  y = MatMul(x, v)", True),
    "Identity": ("v = Identity(w)  y = MatMul(x, v)", False),
    "Cast": ("v = Cast<to = 1>(w)  y = MatMul(x, v)", False),
    "two Transposes": ("u = Transpose(w)  v = Transpose(u)  y = MatMul(x, v)", False),
    "Transpose and Gemm": ("v = Transpose(w)  y = Gemm<transB = 1>(x, v)", False),
}


@pytest.mark.parametrize(("body", "flipped"), BEHIND.values(), ids=BEHIND)
def test_error_feedback_through_other_nodes(
    build: Build, tmp_path: Path, body: str, flipped: bool
) -> None:
    """A weight behind such nodes gets the levels and indices of the plain one."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,40] x) => (float[N,M] y) { BODY }"""
    values = normal(40, 60)
    np.save(tmp_path / "x.npy", normal(64, 12, seed=1) @ normal(12, 40, seed=2))
    plain = build(text.replace("BODY", "y = MatMul(x, w)"), {"w": values}, "plain.onnx")
    other = build(text.replace("BODY", body), {"w": values.T.copy() if flipped else values})
    expected, report = (
        compress(model, options=Options(levels=5), calibration=Calibration(tmp_path / "x.npy"))
        for model in (plain, other)
    )
    assert report.weights[0].method == "kmeans+feedback"
    assert report.weights[0].sqnr == pytest.approx(expected.weights[0].sqnr)
    assert report.quality.outputs[0].relative_error == pytest.approx(
        expected.quality.outputs[0].relative_error, rel=1e-3
    )


def test_a_weight_read_both_ways_has_no_layer(build: Build) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,40] x) => (float[N,40] y) {
      v = Transpose(w)  a = MatMul(x, w)  y = MatMul(a, v) }"""
    (weight,), _ = select(load(build(text, {"w": normal(40, 40)})))
    assert layer_of(weight) is None

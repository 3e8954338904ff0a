"""Weights that nodes compute from constants alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Calibration, Options, Target, compress
from qqonnx.model.folding import fold_weights
from qqonnx.model.load import load
from qqonnx.model.save import write
from qqonnx.model.scopes import named_constants, tensor_of

HEAD = '<ir_version: 8, opset_import: ["": 17]> '
ONE = np.array(1, np.float32)

COMPUTED = {
    "weight norm": (
        "m (float[N,40,T] x) => (float[N,48,U] y) { n = ReduceL2<axes = [1, 2]>(v) "
        "u = Div(v, n) w = Mul(u, g) y = Conv(x, w) }",
        {"v": normal(48, 40, 3), "g": normal(48, 1, 1, seed=1)},
        (48, 40, 3),
    ),
    "weight standardization, behind Reshape": (
        "m (float[N,8,H,H] x) => (float[N,24,I,I] y) { f = Reshape(v, rows) "
        "a = ReduceMean<axes = [1]>(f) c = Sub(f, a) q = Mul(c, c) "
        "s = ReduceMean<axes = [1]>(q) e = Add(s, eps) r = Sqrt(e) d = Div(c, r) "
        "w = Reshape(d, shape) y = Conv(x, w) }",
        {
            "v": normal(24, 8, 3, 3),
            "rows": np.array([24, -1]),
            "shape": np.array([24, 8, 3, 3]),
            "eps": np.array(1e-5, np.float32),
        },
        (24, 72),
    ),
    "low-rank update": (
        "m (float[N,64] x) => (float[N,48] y) { d = MatMul(a, b) s = Mul(d, k) "
        "w = Add(v, s) y = MatMul(x, w) }",
        {"v": normal(64, 48), "a": normal(64, 4), "b": normal(4, 48), "k": ONE / 3},
        (64, 48),
    ),
    "in a branch": (
        """m (float[N,40] x) => (float[N,M] y) { y = If(yes) <
          then_branch = t () => (float[N,M] p) { w = Mul(v, k)  p = MatMul(x, w) },
          else_branch = e () => (float[N,M] q) { q = Identity(x) }> }""",
        {"v": normal(40, 40), "k": ONE * 3, "yes": np.array(True)},
        (40, 40),
    ),
}


@pytest.mark.parametrize(("text", "arrays", "shape"), COMPUTED.values(), ids=COMPUTED)
def test_folded_weights_have_the_bits_of_the_runtime(
    build: Build, tmp_path: Path, text: str, arrays: dict, shape: tuple[int, ...]
) -> None:
    path = build(HEAD + text, arrays)
    model = load(path)
    assert fold_weights(model) == 1
    weights = {name: tensor_of(value).numpy() for name, value, _ in named_constants(model)}
    (weight,) = (array for array in weights.values() if array.size > 999)
    assert weight.shape == shape
    assert "v" not in weights
    folded = tmp_path / "folded.onnx"
    write(model, folded)
    session = ort.InferenceSession(path)
    feed = {
        "x": normal(*(dim if isinstance(dim, int) else 6 for dim in session.get_inputs()[0].shape))
    }
    expected = session.run(None, feed)[0]
    assert np.array_equal(ort.InferenceSession(folded).run(None, feed)[0], expected)


@pytest.mark.parametrize("calibration", [None, Calibration(target=Target(bits=6))])
@pytest.mark.parametrize("name", ["weight norm", "low-rank update"])
def test_folded_weights_are_compressed(
    build: Build, name: str, calibration: Calibration | None
) -> None:
    text, arrays, shape = COMPUTED[name]
    report = compress(build(HEAD + text, arrays), calibration=calibration)
    assert [weight.shape for weight in report.weights] == [shape]
    assert report.quality.outputs[0].relative_error < 0.12
    assert report.bytes_after < report.bytes_before / 2


def test_functions(build: Build) -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "f": 1]>
    m (float[N,40] x) => (float[N,40] y) { w = f.normed(v)  y = f.layer(x, w) }
    <domain: "f", opset_import: ["": 17]>
    normed (a) => (b) { n = ReduceL2<axes = [0]>(a)  b = Div(a, n) }
    <domain: "f", opset_import: ["": 17]>
    layer (a, w) => (b) { b = MatMul(a, w) }"""
    model = load(build(text, {"v": normal(40, 40)}))
    assert fold_weights(model) == 1
    assert [name for name, *_ in named_constants(model)] == ["w"]


STAYING = {
    "only rearranged": ("t = Transpose(v)  c = Cast<to = 1>(t)  y = MatMul(x, c)", {}),
    "grows": ("e = Expand(row, big)  w = Mul(e, k)  y = MatMul(x, w)",
              {"row": normal(1, 40), "big": np.array([40, 40])}),
    "made of nothing": ("w = ConstantOfShape(big)  u = Sub(w, k)  y = MatMul(x, u)",
                        {"big": np.array([40, 40])}),
    "random": ("n = RandomNormalLike(v)  w = Add(v, n)  y = MatMul(x, w)", {}),
    "a factor": ("w = Mul(v, k)  a = MatMul(x, x)  y = Mul(a, w)", {}),
    "used elsewhere": ("w = Mul(v, k)  a = MatMul(x, w)  y = Add(a, v)", {}),
    "quantized": ("w = DequantizeLinear(q, k)  y = MatMul(x, w)",
                  {"q": normal(40, 40).astype(np.int8)}),
    "not constant": ("w = Mul(v, x)  y = MatMul(x, w)", {}),
    "a bias": ("w = Mul(row, k)  a = MatMul(x, v)  y = Add(a, w)", {"row": normal(1, 40)}),
}  # fmt: skip


@pytest.mark.parametrize(("body", "arrays"), STAYING.values(), ids=STAYING)
def test_what_stays_computed(build: Build, tmp_path: Path, body: str, arrays: dict) -> None:
    """The model keeps its bytes too."""
    text = HEAD + "m (float[40,40] x) => (float[40,40] y) { BODY }".replace("BODY", body)
    model = load(build(text, {"v": normal(40, 40), "k": ONE / 3, **arrays}))
    write(model, tmp_path / "before.onnx")
    assert fold_weights(model) == 0
    write(model, tmp_path / "after.onnx")
    assert (tmp_path / "before.onnx").read_bytes() == (tmp_path / "after.onnx").read_bytes()


def test_a_weight_of_two_scales(build: Build) -> None:
    """One of two weights that are made of one constant is folded: two would be larger."""
    text = (
        HEAD
        + """m (float[40,40] x) => (float[40,40] y) {
      w = Mul(v, k)  u = Sub(v, k)  a = MatMul(x, w)  y = MatMul(a, u) }"""
    )
    model = load(build(text, {"v": normal(40, 40), "k": ONE / 3}))
    assert fold_weights(model) == 1


def test_folded_file_is_deterministic(build: Build, tmp_path: Path) -> None:
    text, arrays, _ = COMPUTED["weight norm"]
    path = build(HEAD + text, arrays)
    files = []
    for threads in (1, 2):
        compress(path, tmp_path / "o.onnx", Options(bits=4), threads=threads)
        files.append((tmp_path / "o.onnx").read_bytes())
    assert files[0] == files[1]
    assert not {node.op_type for node in onnx.load_from_string(files[0]).graph.node} & {"ReduceL2"}

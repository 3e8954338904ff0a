"""Which tensors of a model are compressed, by option."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from building import Build, normal
from onnx import helper

from qqonnx import Calibration, OptionError, Options, QqonnxError, Target, compress

HEAD = '<ir_version: 8, opset_import: ["": 17]> '

WITH_INPUTS = {
    "two layers": (
        "m (float[N,64] x) => (float[N,64] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"
    ),
    "a branch": """m (float[N,64] x) => (float[N,64] y) { a = MatMul(x, w)  y = If(yes) <
          then_branch = t () => (float[N,64] p) { p = MatMul(a, v) },
          else_branch = e () => (float[N,64] q) { q = Identity(a) }> }""",
}


def with_inputs(build: Build, text: str) -> Path:
    """Return a model whose initializers are inputs too."""
    arrays = {"w": normal(64, 64), "v": normal(64, 64, seed=1), "yes": np.array(True)}
    path = build(HEAD + text, arrays)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        entry = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(entry)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("calibration", [None, Calibration(target=Target(bits=6))])
@pytest.mark.parametrize("text", WITH_INPUTS.values(), ids=WITH_INPUTS)
def test_initializers_that_are_inputs(
    build: Build, tmp_path: Path, text: str, calibration: Calibration | None
) -> None:
    path = with_inputs(build, text)
    with pytest.raises(QqonnxError, match="--constant-initializers"):
        compress(path)
    options = Options(constant_initializers=True)
    report = compress(path, tmp_path / "o.onnx", options, calibration=calibration)
    assert [weight.name for weight in report.weights] == ["w", "v"]
    assert [entry.name for entry in onnx.load(tmp_path / "o.onnx").graph.input] == ["x"]
    assert report.quality.outputs[0].relative_error < 0.2
    assert len(onnx.load(path).graph.input) > 1


TABLES = {
    "added positions": ("y = Add(a, t)", normal(1, 30, 64)),
    "a factor": ("y = Mul(a, t)", normal(30, 64)),
    "float16 behind Cast": ("c = Cast<to = 1>(t)  y = Add(a, c)", normal(30, 64, dtype=np.float16)),
}


@pytest.mark.parametrize("calibration", [None, Calibration()])
@pytest.mark.parametrize(("body", "table"), TABLES.values(), ids=TABLES)
def test_tables_are_compressed_by_name(
    build: Build, body: str, table: np.ndarray, calibration: Calibration | None
) -> None:
    text = (
        HEAD + "m (float[N,30,64] x) => (float[N,30,64] y) { m = MatMul(x, w)  a = Tanh(m)  BODY }"
    )
    path = build(text.replace("BODY", body), {"w": normal(64, 64), "t": table})
    report = compress(path, calibration=calibration)
    (skipped,) = report.skipped
    assert skipped.can_include
    assert "--include" in skipped.reason
    report = compress(path, options=Options(include=["t*"]), calibration=calibration)
    assert sorted(weight.name for weight in report.weights) == ["t", "w"]
    assert not report.skipped
    assert report.quality.outputs[0].relative_error < 0.1


def test_a_table_added_to_a_product(build: Build) -> None:
    """It is where a bias would be, but has more axes."""
    text = HEAD + "m (float[N,30,64] x) => (float[N,30,64] y) { m = MatMul(x, w)  y = Add(m, t) }"
    path = build(text, {"w": normal(64, 64), "t": normal(30, 64)})
    (skipped,) = compress(path, options=Options(method="kmeans")).skipped
    assert skipped.reason == "a bias; --include NAME compresses it"
    report = compress(path, options=Options(include=["t"]))
    assert sorted(weight.name for weight in report.weights) == ["t", "w"]


def test_a_bias_by_name(build: Build) -> None:
    text = HEAD + "m (float[N,64] x) => (float[N,2000] y) { y = Gemm(x, w, b) }"
    path = build(text, {"w": normal(64, 2000), "b": normal(2000)})
    for calibration in (None, Calibration()):
        report = compress(path, options=Options(include=["b"]), calibration=calibration)
        assert sorted(weight.name for weight in report.weights) == ["b", "w"]


def test_an_include_that_names_nothing(build: Build) -> None:
    path = build(
        HEAD + "m (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", {"w": normal(64, 64)}
    )
    with pytest.raises(OptionError, match="include: no float tensor has a name like pos"):
        compress(path, options=Options(include=["pos*"]))


INTEGER = {
    "QDQ": "d = DequantizeLinear(q, s)  y = MatMul(x, d)",
    "dynamic": "a, b, c = DynamicQuantizeLinear(x)  i = MatMulInteger(a, q, c)  "
    "f = Cast<to = 1>(i) y = Mul(f, s)",
    "QOperator": "a = QuantizeLinear(x, s)  i = QLinearMatMul(a, s, u, q, s, z, s, u) "
    "y = DequantizeLinear(i, s)",
}


@pytest.mark.parametrize("body", INTEGER.values(), ids=INTEGER)
def test_quantized_models(build: Build, tmp_path: Path, body: str) -> None:
    """Their integers are compressed as integers; what is float still is compressed too."""
    text = HEAD + "m (float[N,64] x) => (float[N,64] y) { BODY }".replace("BODY", body)
    arrays = {
        "q": (2 * normal(64, 64)).round().clip(-8, 7).astype(np.int8),
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
        "u": np.array(0, np.uint8),
    }
    noise = np.random.default_rng(0).integers(-127, 128, (64, 64)).astype(np.int8)
    path = build(text, arrays)
    with pytest.raises(QqonnxError, match="1 weights are integers .int8 already, and no smaller"):
        compress(build(text, arrays | {"q": noise}, "noise.onnx"), tmp_path / "o.onnx")
    report = compress(path, tmp_path / "o.onnx", Options(bits=4))
    assert [(w.name, w.l2) for w in report.weights] == [("q", 0.0)]
    mixed = text.replace("(float[N,64] y) {", "(float[N,64] z_, float[N,64] y) { z_ = MatMul(x, w)")
    report = compress(build(mixed, arrays | {"w": normal(64, 64)}), tmp_path / "o.onnx")
    assert [weight.name for weight in report.weights] == ["q", "w"]
    assert report.quantized == 1

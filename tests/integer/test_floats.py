"""Files that multiply integers, as float models again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from qqonnx import Calibration, OptionError, Options, QqonnxError, compress
from qqonnx import restore as restore_file

CONVS = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,16,12,12] x) => (float[N,20] y, float[N,24,12,12] inner, float[N,20] again) {
    zero = Constant <value = float {0.0}> ()
    six = Constant <value = float {6.0}> ()
    a = Conv <pads = [1,1,1,1]> (x, first, first_bias)
    b = Clip(a, zero, six)
    c = Conv(b, second)
    d = Relu(c)
    inner = Add(b, d)
    e = Conv(inner, last, last_bias)
    f = Relu(e)
    g = GlobalAveragePool(f)
    h = Flatten(g)
    i = Gemm <transB = 1> (h, head, head_bias)
    y = Relu(i)
    again = Gemm <transB = 1> (h, head, head_bias)
}"""
MATMULS = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,T,48] x) => (float[N,T,32] y, float[N,T,64] z) {
    a = MatMul(x, up)
    b = Add(a, up_bias)
    z = Relu(b)
    t = Transpose(down)
    d = MatMul(z, t)
    y = Add(d, last)
}"""
FLAT = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,48] x) => (float[N,32] y) {
    a = Gemm(x, up, up_bias)
    b = Relu(a)
    y = Gemm <transB = 1> (b, down, last)
}"""


def convs(build: Build) -> Path:
    arrays = {
        "first": 0.2 * normal(24, 16, 3, 3),
        "first_bias": normal(24, seed=1),
        "second": 0.2 * normal(24, 24, 1, 1, seed=2),
        "last": 0.2 * normal(60, 24, 1, 1, seed=3),
        "last_bias": normal(60, seed=4),
        "head": normal(20, 60, seed=5),
        "head_bias": normal(20, seed=6),
    }
    return build(CONVS, arrays)


def products(build: Build, text: str) -> Path:
    arrays = {
        "up": normal(48, 64),
        "up_bias": normal(64, seed=1),
        "down": normal(32, 64, seed=2),
        "last": normal(32, seed=3),
    }
    return build(text, arrays)


MODELS = {
    "static": convs,
    "dynamic": lambda build: products(build, MATMULS),
    "Gemm": lambda build: products(build, FLAT),
}
all_models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def feeds(path: Path, count: int = 4, factor: float = 1) -> list[dict[str, np.ndarray]]:
    sizes = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    shape = [size.dim_value or 3 for size in sizes]
    return [{"x": np.float32(factor) * normal(*shape, seed=n)} for n in range(count)]


def outputs(path: Path, inputs: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    runs = [session.run(None, feed) for feed in inputs]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def with_weights_of(source: Path, other: Path) -> Path:
    """Return the source with tensors of another model where the names are the same."""
    model = onnx.load(source)
    tensors = {tensor.name: tensor for tensor in onnx.load(other).graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            assert tensors[tensor.name].data_type == onnx.TensorProto.FLOAT
            tensor.CopyFrom(tensors[tensor.name])
    target = source.with_name("reference.onnx")
    onnx.save(model, target)
    return target


@all_models
@pytest.mark.parametrize("bits", [3, 8])
def test_only_the_weights_differ(build: Build, tmp_path: Path, model, bits: int) -> None:
    """The float file computes what the original computes with its weights, on any inputs."""
    source, small, plain = model(build), tmp_path / "small.onnx", tmp_path / "plain.onnx"
    calibration = Calibration(feeds(source, 16))
    compress(source, small, Options(bits=bits, compute="int8"), calibration=calibration)
    assert restore_file(small, plain, as_float=True) == (3 if model is convs else 2)
    assert not any("Quantize" in name or "Integer" in name for name in operators(plain))
    assert not {"Cast", "Identity", "ConstantOfShape"} & set(operators(plain))
    for name in ("Clip", "Relu"):
        assert operators(plain)[name] == operators(source)[name]
    assert not onnx.load(plain).metadata_props
    kinds = {tensor.data_type for tensor in onnx.load(plain).graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT}
    reference = with_weights_of(source, plain)
    # Inputs three times as large are beyond the ranges that calibration found.
    inputs = [*feeds(source), *feeds(source, factor=3)]
    for expected, found in zip(outputs(reference, inputs), outputs(plain, inputs), strict=True):
        assert np.allclose(expected, found, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    if bits == 8:
        for expected, found in zip(outputs(source, inputs), outputs(plain, inputs), strict=True):
            assert np.square(found - expected).mean() < 1e-3 * expected.var()


@all_models
def test_weights_are_integers_times_scales(build: Build, tmp_path: Path, model) -> None:
    source, small = model(build), tmp_path / "small.onnx"
    compress(source, small, Options(bits=4, compute="int8"))
    restore_file(small, tmp_path / "int8.onnx")
    restore_file(small, tmp_path / "plain.onnx", as_float=True)
    integers, floats = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / name).graph.initializer}
        for name in ("int8.onnx", "plain.onnx")
    )
    exact = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    names = [name for name, array in integers.items() if array.dtype == np.int8 and array.ndim > 1]
    assert names
    for name in names:
        axis = {"up": 1, "down": 0}.get(name, 0)
        rows = np.moveaxis(integers[name], axis, 0).reshape(integers[name].shape[axis], -1)
        found = np.moveaxis(floats[name], axis, 0).reshape(len(rows), -1)
        for row, values in zip(rows, found, strict=True):
            level = np.argmax(np.abs(row))
            step = values[level] / row[level]
            assert np.allclose(row * step, values, rtol=1e-6)
        assert np.square(floats[name] - exact[name]).mean() < 0.1 * exact[name].var()


def test_refusals(build: Build, tmp_path: Path) -> None:
    source, small, plain = convs(build), tmp_path / "small.onnx", tmp_path / "plain.onnx"
    compress(source, small, Options(bits=4))
    with pytest.raises(OptionError, match="only for files that multiply integers"):
        restore_file(small, plain, as_float=True)
    quantize_dynamic(source, tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    compress(tmp_path / "int8.onnx", small, Options(bits=4))
    with pytest.raises(QqonnxError, match=r"small\.onnx: its ConvInteger is not used as"):
        restore_file(small, plain, as_float=True)
    assert not plain.exists()

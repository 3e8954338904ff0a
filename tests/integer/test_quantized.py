"""Models that are int8 already: their weights become codebooks of levels of their own type."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from qqonnx import Calibration, OptionError, Options, QqonnxError, Target, compress, inspect, verify
from qqonnx import restore as restore_file
from qqonnx.encoding.read import read
from qqonnx.model.load import load

FLOAT = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,16,12,12] x) => (float[N,20] y) {
    a = Conv <pads = [1,1,1,1]> (x, first, first_bias)
    b = Relu(a)
    c = Conv(b, last, last_bias)
    d = GlobalAveragePool(c)
    f = Flatten(d)
    y = Gemm <transB = 1> (f, head, head_bias)
}"""
EMBEDDED = """<ir_version: 8, opset_import: ["": 17]>
m (int64[N,T] x) => (float[N,T,64] y) {
    e = Gather(table, x)
    a = MatMul(e, up)
    b = Relu(a)
    y = MatMul(b, down)
}"""


class Feeds(CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = iter([{"x": normal(2, 16, 12, 12, seed=n)} for n in range(4)])

    def get_next(self):
        return next(self.feeds, None)


def float_model(build: Build) -> Path:
    arrays = {
        "first": 0.1 * normal(24, 16, 3, 3),
        "first_bias": normal(24, seed=1),
        "last": 0.2 * normal(60, 24, 1, 1, seed=3) * np.geomspace(1, 9, 60)[:, None, None, None],
        "last_bias": normal(60, seed=4),
        "head": normal(20, 60, seed=5),
        "head_bias": normal(20, seed=6),
    }
    return build(FLOAT, {name: a.astype(np.float32) for name, a in arrays.items()}, "float.onnx")


def static(build: Build, form: QuantFormat, kind: QuantType = QuantType.QInt8) -> Path:
    source = float_model(build)
    target = source.with_name("static.onnx")
    per_channel = kind == QuantType.QInt8
    activations = QuantType.QUInt8
    quantize_static(
        *(source, target, Feeds(), form),
        per_channel=per_channel,
        weight_type=kind,
        activation_type=activations,
    )
    return target


def dynamic(build: Build, kind: QuantType, text: str = EMBEDDED) -> Path:
    arrays = {"table": normal(100, 48), "up": normal(48, 64, seed=1), "down": normal(64, 64)}
    target = build(text, arrays, "float.onnx").with_name("dynamic.onnx")
    quantize_dynamic(target.with_name("float.onnx"), target, weight_type=kind)
    return target


MODELS = {
    "QDQ": lambda build: static(build, QuantFormat.QDQ),
    "QDQ of uint8": lambda build: static(build, QuantFormat.QDQ, QuantType.QUInt8),
    "QOperator": lambda build: static(build, QuantFormat.QOperator),
    "dynamic": lambda build: dynamic(build, QuantType.QInt8),
    "dynamic of uint8": lambda build: dynamic(build, QuantType.QUInt8),
}
all_models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def optimized(path: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return Counter(node.op_type for node in nodes)


@all_models
@pytest.mark.parametrize("levels", [2, 3, 6, 16, 40])
def test_runs_like_the_given_model(build: Build, tmp_path: Path, model, levels: int) -> None:
    """ONNX Runtime makes the same graph of both files, so no decode node is left."""
    source, target = model(build), tmp_path / "small.onnx"
    report = compress(source, target, Options(levels=levels))
    assert report.quantized == len(report.weights) == 3
    assert optimized(target) == optimized(source)
    integers = {"QLinearConv", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    assert integers & set(optimized(target))


@all_models
def test_restored_tensors_have_the_levels(build: Build, tmp_path: Path, model) -> None:
    source, target, plain = model(build), tmp_path / "small.onnx", tmp_path / "plain.onnx"
    report = compress(source, target, Options(bits=3, method="kmeans"))
    assert target.stat().st_size < source.stat().st_size
    assert restore_file(target, plain) == 3
    before, after = tensors(source), tensors(plain)
    assert before.keys() == after.keys()
    weights = {weight.name: weight for weight in read(load(target))}
    for name, array in after.items():
        assert array.dtype == before[name].dtype
        if name in weights:
            assert set(np.unique(array)) <= set(weights[name].codebook.tolist())
            assert len(np.unique(array)) <= 8
        else:
            assert np.array_equal(array, before[name])
    assert verify(target, plain).equal
    found = {w.name: (w.bits, w.bytes_before, w.bytes_after) for w in inspect(target).weights}
    assert found == {w.name: (w.bits, w.bytes_before, w.bytes_after) for w in report.weights}
    assert all(w.bytes_before == before[w.name].size for w in report.weights)


def test_error_falls_with_bits_and_few_integers_are_kept(build: Build, tmp_path: Path) -> None:
    source, target = static(build, QuantFormat.QDQ), tmp_path / "small.onnx"
    errors = [
        sum(w.l2 for w in compress(source, target, Options(bits=bits, method="kmeans")).weights)
        for bits in (2, 3, 4, 5, 6)
    ]
    assert errors == sorted(errors, reverse=True)
    compress(source, target, Options(bits=3, method="kmeans"))
    plain = tmp_path / "plain.onnx"
    restore_file(target, plain)
    again = compress(plain, target, Options(bits=4))
    assert [weight.l2 for weight in again.weights] == [0, 0, 0]


def test_channels_of_large_scale_count_more(build: Build) -> None:
    """Levels are fitted to the integers that large scales multiply."""
    weight = np.empty((64, 64), np.int8)
    weight[:, :32] = np.random.default_rng(0).choice([-100, -60, 60, 100], (64, 32))
    weight[:, 32:] = np.random.default_rng(1).integers(-50, 50, (64, 32))
    scales = np.repeat([1.0, 1e-3], 32).astype(np.float32)
    text = (
        '<ir_version: 8, opset_import: ["": 17]>\nm (float[N,64] x) => (float[N,64] y) '
        "{ w = DequantizeLinear <axis = 1> (q, s)  y = MatMul(x, w) }"
    )
    options = Options(bits=2, method="kmeans")
    (report,) = compress(build(text, {"q": weight, "s": scales}), options=options).weights
    path = build(text, {"q": weight[:, :32], "s": scales[:32]}, "part.onnx")
    assert report.levels == 4
    small = compress(build(text, {"q": weight, "s": scales}), options=options).model
    assert small is not None
    onnx.save(small, path)
    (stored,) = read(load(path))
    assert sorted(stored.codebook.tolist()) == [-100, -60, 60, 100]


def test_options(build: Build, tmp_path: Path) -> None:
    source, target = static(build, QuantFormat.QDQ), tmp_path / "small.onnx"
    with pytest.raises(QqonnxError, match="int8 already, and no smaller with so many levels"):
        compress(source, target)
    for options in (Options(granularity="channel"), Options(operators="matmulnbits", bits=4)):
        with pytest.raises(OptionError, match="would be ignored: the weights are integers"):
            compress(source, target, options)
    tuned = Calibration(target=Target(bits=4), finetune=True)
    with pytest.raises(OptionError, match="finetune: would be ignored: the model computes with"):
        compress(source, target, calibration=tuned)
    operators = static(build, QuantFormat.QOperator)
    with pytest.raises(OptionError, match="target: would be ignored: the weights are integers"):
        compress(operators, target, calibration=Calibration(target=Target(bits=4)))
    source = static(build, QuantFormat.QDQ)
    with pytest.raises(QqonnxError, match="--compute int8: the model has"):
        compress(source, target, Options(bits=4, compute="int8"))
    report = compress(source, target, Options(bits=4, skip=["first*"]))
    assert not [weight for weight in report.weights if weight.name.startswith("first")]
    data = [{"x": normal(1, 16, 12, 12, seed=n)} for n in range(8)]
    report = compress(source, target, Options(bits=4), calibration=Calibration(data))
    assert report.quality.outputs[0].samples == 1  # held out
    operators = static(build, QuantFormat.QOperator)
    report = compress(operators, target, Options(bits=4), calibration=Calibration(data))
    assert report.quality.outputs[0].samples == 8


def test_weights_that_stay(build: Build, tmp_path: Path) -> None:
    """4 bits in a byte, and bytes that something else reads, are no integers to round."""
    text = (
        '<ir_version: 10, opset_import: ["": 21]>\nm (float[N,64] x) => (float[N,64] y) '
        "{ w = DequantizeLinear(q, s)  u = DequantizeLinear(r, s)  f = Cast <to = 1> (r) "
        "  v = Mul(u, f)  a = MatMul(x, w)  b = MatMul(a, v)  y = MatMul(b, k) }"
    )
    arrays = {
        "r": np.random.default_rng(0).integers(-9, 9, (64, 64)).astype(np.int8),
        "s": np.float32(0.1),
        "k": normal(64, 64),
    }
    path = build(text, {name: np.asarray(array) for name, array in arrays.items()})
    model = onnx.load(path)
    packed = onnx.helper.make_tensor("q", onnx.TensorProto.INT4, (64, 64), [3] * 4096)
    model.graph.initializer.append(packed)
    onnx.save(model, path)
    report = compress(path, tmp_path / "small.onnx", Options(bits=4))
    assert [weight.name for weight in report.weights] == ["k"]
    reasons = {entry.name: entry.reason for entry in report.skipped}
    assert reasons["q"] == "int4 already, for DequantizeLinear"
    assert reasons["r"] == "int8 already, for DequantizeLinear"


def test_floats_beside_are_calibrated(build: Build, tmp_path: Path) -> None:
    source = float_model(build)
    target = source.with_name("mixed.onnx")
    data = [{"x": normal(1, 16, 12, 12, seed=n)} for n in range(8)]
    quantize_static(source, target, Feeds(), QuantFormat.QDQ, op_types_to_quantize=["Gemm"])
    small = tmp_path / "small.onnx"
    report = compress(target, small, Options(bits=4), calibration=Calibration(data))
    methods = {weight.name: weight.method for weight in report.weights}
    assert methods == {
        "first": "kmeans+feedback",
        "last": "kmeans+feedback",
        "head_quantized": "kmeans+feedback",
    }
    assert report.quantized == 1
    assert optimized(small)["QGemm"] == 1

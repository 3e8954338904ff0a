"""Models that are int8 already, calibrated: float weights in between, the same operators after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal
from onnxruntime.quantization import QuantFormat, QuantType

from qqonnx import Calibration, OptionError, Options, Target, compress, evaluate, inspect
from qqonnx import restore as restore_file
from qqonnx.integer.float_weights import float_weights
from qqonnx.integer.floats import without_rounding
from qqonnx.model.load import load
from qqonnx.model.save import write
from tests.integer.test_quantized import dynamic, optimized, static, tensors

EMBEDDED = """<ir_version: 8, opset_import: ["": 17]>
m (int64[N,T] x) => (float[N,T,64] y) {
    e = Gather(table, x)
    n = Relu(e)
    a = MatMul(n, up)
    b = Relu(a)
    y = MatMul(b, down)
}"""

MODELS = {
    "QDQ": lambda build: static(build, QuantFormat.QDQ),
    "QDQ of uint8": lambda build: static(build, QuantFormat.QDQ, QuantType.QUInt8),
    "dynamic": lambda build: dynamic(build, QuantType.QInt8, EMBEDDED),
    "dynamic of uint8": lambda build: dynamic(build, QuantType.QUInt8, EMBEDDED),
}
all_models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
Model = Callable[[Build], Path]


def feeds(path: Path, count: int = 16, seed: int = 20) -> list[dict[str, np.ndarray]]:
    if "Conv" in {node.op_type for node in onnx.load(path).graph.node}:
        return [{"x": normal(1, 16, 12, 12, seed=seed + n)} for n in range(count)]
    random = np.random.default_rng(seed)
    return [{"x": random.integers(0, 100, (1, 6))} for _ in range(count)]


def outputs(path: Path, given: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Return the outputs as the operators are written, without fusions."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options)
    return np.concatenate([session.run(None, feed)[0] for feed in given])


@all_models
def test_float_weights_are_the_integers_times_their_scales(
    build: Build, tmp_path: Path, model: Model
) -> None:
    source, target = model(build), tmp_path / "floats.onnx"
    changed = load(source)
    sizes = float_weights(changed, lambda _: True)
    before = tensors(source)
    assert len(sizes) == 3
    assert sizes == {name: before[name].nbytes for name in sizes}
    write(changed, target)
    assert all(tensors(target)[name].dtype == np.float32 for name in sizes)
    given = feeds(source)
    expected = outputs(source, given)
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(outputs(target, given), expected, atol=tolerance)


@all_models
def test_without_rounding_outputs_are_near(build: Build, tmp_path: Path, model: Model) -> None:
    source, target = model(build), tmp_path / "plain.onnx"
    plain = without_rounding(load(source))
    operators = {node.op_type for node in plain.graph}
    assert not operators & {"QuantizeLinear", "DequantizeLinear", "MatMulInteger"}
    write(plain, target)
    given = feeds(source)
    expected = outputs(source, given)
    assert np.abs(outputs(target, given) - expected).mean() < 0.05 * np.abs(expected).mean()


@all_models
def test_calibrated_integers_lose_less(build: Build, tmp_path: Path, model: Model) -> None:
    source, plain, target = model(build), tmp_path / "plain.onnx", tmp_path / "small.onnx"
    compress(source, plain, Options(bits=3, method="kmeans"))
    size = plain.stat().st_size
    calibration = Calibration(feeds(source, 32), target=Target(size=size))
    report = compress(source, target, calibration=calibration)
    assert target.stat().st_size <= size
    assert report.quantized == len(report.weights) == 3
    before = tensors(source)
    assert all(weight.bytes_before == before[weight.name].nbytes for weight in report.weights)
    given = feeds(source, 32, seed=90)
    ours, theirs = evaluate([target, plain], given, baseline=source).rows[1:]
    assert ours.sqnr > theirs.sqnr + 1
    first = target.read_bytes()
    compress(source, target, calibration=calibration)
    assert target.read_bytes() == first


@all_models
def test_the_operators_are_the_same(build: Build, tmp_path: Path, model: Model) -> None:
    source, target, plain = model(build), tmp_path / "small.onnx", tmp_path / "plain.onnx"
    report = compress(source, target, Options(bits=4))
    assert report.outputs.equal
    expected = optimized(source)
    # Gather reads a table of floats.
    expected["DequantizeLinear"] -= expected["Gather"]
    assert optimized(target) == expected
    assert {weight.name for weight in inspect(target).weights} == {w.name for w in report.weights}
    restore_file(target, plain)
    multiplied = [name for name in tensors(plain) if not name.startswith("table")]
    kinds = {tensors(plain)[w.name].dtype for w in report.weights if w.name in multiplied}
    assert kinds == {np.dtype(np.int8)}
    given = feeds(source)
    np.testing.assert_array_equal(outputs(plain, given), outputs(target, given))


def test_weights_alone_become_floats(build: Build, tmp_path: Path) -> None:
    """Without rounded activations, layers multiply floats, and so do those of the small file."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]>\nm (float[N,64] x) => (float[N,64] y) '
        "{ u = DequantizeLinear <axis = 1> (q, s, z)  a = MatMul(x, u)  b = Relu(a) "
        "  v = DequantizeLinear(r, t)  y = MatMul(b, v) }"
    )
    random = np.random.default_rng(0)
    arrays = {
        "q": random.integers(0, 255, (64, 64)).astype(np.uint8),
        "s": random.uniform(0.01, 0.1, 64).astype(np.float32),
        "z": np.full(64, 128, np.uint8),
        "r": np.clip(random.normal(0, 30, (64, 64)), -127, 127).astype(np.int8),
        "t": np.array(0.1, np.float32),
    }
    source, target = build(text, arrays), tmp_path / "small.onnx"
    data = [{"x": normal(8, 64, seed=n)} for n in range(16)]
    report = compress(source, target, Options(bits=4), calibration=Calibration(data))
    assert {w.name: w.bytes_before for w in report.weights} == {"q": 4096, "r": 4096}
    assert target.stat().st_size < source.stat().st_size
    assert optimized(target) == {"MatMul": 2, "Relu": 1}
    assert evaluate([target], data, baseline=source).rows[-1].sqnr > 15


def test_an_integer_weight_of_two_layers_with_two_scales_stays(build: Build) -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 17]>\nm (float[N,64] x) => (float[N,64] y) '
        "{ u = DequantizeLinear(q, s)  a = MatMul(x, u)  v = DequantizeLinear(q, t)  "
        "  y = MatMul(a, v) }"
    )
    weight = np.random.default_rng(0).integers(-99, 99, (64, 64)).astype(np.int8)
    scales = {"s": np.array(0.1, np.float32), "t": np.array(0.2, np.float32)}
    model = load(build(text, {"q": weight, **scales}))
    assert float_weights(model, lambda _: True) == {}
    model = load(build(text, {"q": weight, "s": scales["s"], "t": scales["s"]}))
    assert float_weights(model, lambda _: True) == {"q": 4096}


def test_a_target_is_refused_if_most_weights_stay_integers(build: Build, tmp_path: Path) -> None:
    """MatMulInteger reads the rows of this table as they are."""
    source = dynamic(build, QuantType.QInt8)
    with pytest.raises(OptionError, match="target: would be ignored: the weights are integers"):
        compress(source, tmp_path / "small.onnx", calibration=Calibration(target=Target(bits=4)))
    report = compress(source, tmp_path / "small.onnx", Options(bits=4))
    assert report.quantized == 3


@all_models
def test_restored_as_floats(build: Build, tmp_path: Path, model: Model) -> None:
    source, target, plain = model(build), tmp_path / "small.onnx", tmp_path / "plain.onnx"
    compress(source, target, Options(bits=6))
    restore_file(target, plain, as_float=True)
    assert not [name for name in optimized(plain) if "Linear" in name or "Integer" in name]
    assert not {array.dtype.itemsize for array in tensors(plain).values()} & {1}
    row = evaluate([plain], feeds(source), baseline=target).rows[-1]
    assert row.sqnr > 20

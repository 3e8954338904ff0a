"""Files that multiply integers: what they hold, what ONNX Runtime makes of them, and how exact."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal
from onnx import numpy_helper

from qqonnx import Calibration, OptionError, Options, QqonnxError, Target, compress, inspect
from qqonnx import restore as restore_file
from qqonnx.encoding.read import read
from qqonnx.model.load import load

CONVS = """<ir_version: 8, opset_import: ["": 13, "ai.onnx.ml": 3]>
m (float[N,16,12,12] x) => (float[N,20] y) {
    a = Conv <pads = [1,1,1,1]> (x, first, first_bias)
    b = Relu(a)
    c = Conv <pads = [1,1,1,1], group = 24> (b, depthwise)
    d = Relu(c)
    e = Conv(d, last, last_bias)
    f = GlobalAveragePool(e)
    g = Flatten(f)
    y = Gemm <transB = 1> (g, head, head_bias)
}"""
MATMULS = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,T,48] x) => (float[N,T,32] y) {
    a = MatMul(x, up)
    b = Add(a, up_bias)
    c = Relu(b)
    t = Transpose(down)
    d = MatMul(c, t)
    y = Add(d, x1)
}"""


def convs(build: Build, name: str = "model.onnx") -> Path:
    arrays = {
        "first": 0.1 * normal(24, 16, 3, 3),
        "first_bias": normal(24, seed=1),
        "depthwise": normal(24, 1, 3, 3, seed=2),
        "last": 0.2 * normal(60, 24, 1, 1, seed=3),
        "last_bias": normal(60, seed=4),
        "head": normal(20, 60, seed=5),
        "head_bias": normal(20, seed=6),
    }
    return build(CONVS, arrays, name)


def matmuls(build: Build) -> Path:
    arrays = {
        "up": normal(48, 64),
        "up_bias": normal(64, seed=1),
        "down": normal(32, 64, seed=2),
        "x1": normal(32, seed=3),
    }
    return build(MATMULS, arrays)


def feeds(path: Path, count: int = 8, seed: int = 7) -> list[dict[str, np.ndarray]]:
    shape = (1, 16, 12, 12) if "Conv" in operators(path) else (1, 5, 48)
    return [{"x": normal(*shape, seed=seed + n)} for n in range(count)]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def optimized(path: Path) -> Counter[str]:
    options = ort.SessionOptions()
    target = path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return operators(target)


def outputs(path: Path, inputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in inputs])


def relative_error(path: Path, other: Path) -> float:
    inputs = feeds(path, seed=100)
    exact = outputs(path, inputs)
    return float(np.sqrt(np.square(outputs(other, inputs) - exact).mean() / exact.var()))


@pytest.mark.parametrize("levels", [2, 3, 6, 16, 40, 100, 255])
def test_convolutions_run_as_integers(build: Build, tmp_path: Path, levels: int) -> None:
    """Nothing that decodes is left after loading, and no operator multiplies floats."""
    source, target = convs(build), tmp_path / "small.onnx"
    compress(source, target, Options(levels=levels, compute="int8"))
    found = optimized(target)
    assert found["QLinearConv"] == 3
    assert found["QGemm"] == 1
    assert not {"Conv", "Gemm", "Gather", "GatherElements", "Cast", "Mul", "Div"} & set(found)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_matrix_products_run_as_integers(build: Build, tmp_path: Path, bits: int) -> None:
    source, target = matmuls(build), tmp_path / "small.onnx"
    compress(source, target, Options(bits=bits, compute="int8"))
    found = optimized(target)
    fused = found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"]
    assert fused == 2, found
    assert not {"MatMul", "Gather", "GatherElements", "Transpose"} & set(found)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("model", [convs, matmuls])
def test_restored_integers_are_those_of_the_codes(
    build: Build, tmp_path: Path, model, calibrated: bool
) -> None:
    """The plain int8 file computes the same, bit for bit; its tensors follow from the codes."""
    source, target, plain = model(build), tmp_path / "small.onnx", tmp_path / "plain.onnx"
    calibration = Calibration(feeds(source)) if calibrated else None
    report = compress(source, target, Options(bits=4, compute="int8"), calibration=calibration)
    assert restore_file(target, plain) == len(report.weights) == 2 + (model is convs) * 1
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(plain).graph.initializer}
    for weight in read(load(target)):
        assert tensors[weight.name].dtype == np.int8
        assert set(np.unique(tensors[weight.name])) <= set(weight.codebook.tolist())
        assert np.abs(weight.codebook.astype(int)).max() <= 63
    inputs = feeds(source, seed=50)
    assert np.array_equal(outputs(plain, inputs), outputs(target, inputs))
    assert optimized(plain) == optimized(target)


@pytest.mark.parametrize("model", [convs, matmuls])
def test_eight_bits_compute_what_floats_do(build: Build, tmp_path: Path, model) -> None:
    source, target = model(build), tmp_path / "small.onnx"
    calibration = Calibration(feeds(source, 32))
    compress(source, target, Options(bits=8, compute="int8"), calibration=calibration)
    assert relative_error(source, target) < 0.04


def test_error_feedback_works_on_the_grid(build: Build, tmp_path: Path) -> None:
    source, plain, fed = convs(build), tmp_path / "plain.onnx", tmp_path / "fed.onnx"
    data = Calibration(feeds(source, 64))
    everything = Options(levels=5, compute="int8")
    fed_report = compress(source, fed, everything, calibration=data)
    report = compress(source, plain, everything)
    # Depthwise weights are too small to be compressed.
    assert {w.name for w in report.weights} == {w.name for w in fed_report.weights}
    assert relative_error(source, fed) < relative_error(source, plain)


def test_target_counts_the_whole_file(build: Build, tmp_path: Path) -> None:
    source, target = convs(build), tmp_path / "small.onnx"
    size = 9000
    calibration = Calibration(feeds(source, 16), target=Target(size=size))
    report = compress(source, target, Options(compute="int8-static"), calibration=calibration)
    assert report.bytes_after == target.stat().st_size <= size
    assert optimized(target)["QLinearConv"] == 3


def test_skipped_layers_stay_float(build: Build, tmp_path: Path) -> None:
    source, target = convs(build), tmp_path / "small.onnx"
    compress(source, target, Options(bits=8, compute="int8", skip=("first",)))
    found = optimized(target)
    assert found["QLinearConv"] == 2
    exact = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    kept = {t.name: numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
    assert np.array_equal(kept["first"], exact["first"])


def test_range_of_levels(build: Build, tmp_path: Path) -> None:
    source, target = convs(build), tmp_path / "small.onnx"
    compress(source, target, Options(bits=8, compute="int8", int8_range=127))
    assert max(np.abs(w.codebook.astype(int)).max() for w in read(load(target))) > 63


def test_file_declares_only_what_it_uses(build: Build, tmp_path: Path) -> None:
    """Old runtimes refuse operator sets that they do not know, used or not."""
    source, target = convs(build), tmp_path / "small.onnx"
    compress(source, target, Options(bits=4, compute="int8"))
    model = onnx.load(target)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    assert model.ir_version == 8


def test_same_bytes_for_any_number_of_threads(build: Build, tmp_path: Path) -> None:
    source = convs(build)
    files = [tmp_path / f"{threads}.onnx" for threads in (1, 2)]
    for threads, file in enumerate(files, 1):
        compress(
            source,
            file,
            Options(bits=3, compute="int8"),
            calibration=Calibration(feeds(source)),
            threads=threads,
        )
    assert files[0].read_bytes() == files[1].read_bytes()


def test_inspection_counts_floats_before(build: Build, tmp_path: Path) -> None:
    source, target = convs(build), tmp_path / "small.onnx"
    report = compress(source, target, Options(bits=4, compute="int8"))
    found = {weight.name: weight for weight in inspect(target).weights}
    assert {w.name: (w.bits, w.levels, w.bytes_before) for w in report.weights} == {
        name: (w.bits, w.levels, w.bytes_before) for name, w in found.items()
    }


def test_refusals(build: Build, tmp_path: Path) -> None:
    source, target = convs(build), tmp_path / "small.onnx"
    with pytest.raises(OptionError, match="compute: must be one of"):
        compress(source, target, Options(compute="int4"))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="int8_range: must be one of 63, 127"):
        compress(source, target, Options(compute="int8", int8_range=64))
    with pytest.raises(OptionError, match="granularity: would be ignored"):
        compress(source, target, Options(compute="int8", granularity="tensor"))
    compress(source, target, Options(bits=8, compute="int8"))
    plain = tmp_path / "plain.onnx"
    restore_file(target, plain)
    with pytest.raises(QqonnxError, match="QuantizeLinear already"):
        compress(plain, target, Options(compute="int8"))
    table = build(
        '<ir_version: 8, opset_import: ["": 17]>\nm (int64[N] x) => (float[N,9] y) '
        "{ y = Gather(w, x) }",
        {"w": normal(300, 9)},
        "table.onnx",
    )
    with pytest.raises(QqonnxError, match="no Conv, Gemm or MatMul"):
        compress(table, target, Options(compute="int8"))


@pytest.mark.parametrize("external", [False, True])
def test_many_layers_run_in_one_file_and_in_two(build: Build, tmp_path: Path, external) -> None:
    """The scales of all layers are one tensor; the list of their sizes must be in the ONNX file."""
    names = [f"w{number}" for number in range(40)]
    values = ["x", *(f"h{number}" for number in range(39)), "y"]
    nodes = [
        f"{out} = MatMul({value}, {name})"
        for value, name, out in zip(values, names, values[1:], strict=False)
    ]
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[N,48] x) => (float[N,48] y) {{ {" ".join(nodes)} }}"""
    source = build(text, {name: normal(48, 48, seed=n) / 7 for n, name in enumerate(names)})
    target = tmp_path / "small.onnx"
    options = Options(compute="int8-dynamic", method="kmeans", bits=4)
    report = compress(source, target, options, external_data=external)
    assert report.outputs.reason is None
    assert report.outputs.equal
    ort.InferenceSession(target)

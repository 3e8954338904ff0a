"""Many small weights that are decoded together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Calibration, Options, QqonnxError, Target, compress, inspect, restore, verify
from qqonnx.encoding.read import read
from qqonnx.encoding.stack import FEWEST, LARGEST
from qqonnx.model.load import load

HEAD = '<ir_version: 8, opset_import: ["": 17]> '
COUNT = FEWEST + 1

SHAPES = {
    "matrices of odd size": ("MatMul", (33, 33), "float[N,33]"),
    "kernels": ("Conv", (12, 12, 3, 3), "float[N,12,8,8]"),
}


def chain(build: Build, name: str, dtype: type = np.float32, count: int = COUNT) -> Path:
    """Return a model of small layers, each of which has a weight of its own."""
    operator, shape, kind = SHAPES[name]
    pads = "<pads = [1, 1, 1, 1]>" if operator == "Conv" else ""
    body, last = [], "x"
    for n in range(count):
        body.append(f"c{n} = Cast<to = 1>(w{n})  y{n} = {operator}{pads}({last}, c{n})")
        body.append(f"t{n} = Tanh(y{n})")
        last = f"t{n}"
    text = f"{HEAD} m ({kind} x) => ({kind} {last}) {{ {'  '.join(body)} }}"
    scale = np.sqrt(np.prod(shape[1:]))
    weights = {f"w{n}": (normal(*shape, seed=n) / scale).astype(dtype) for n in range(count)}
    return build(text, weights)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("granularity", ["tensor", "scale", "channel"])
@pytest.mark.parametrize("levels", [2, 3, 16, 33, 256])
@pytest.mark.parametrize("name", SHAPES)
def test_stacked_weights_are_verified_and_read(
    build: Build, tmp_path: Path, name: str, levels: int, granularity: str
) -> None:
    """`compress` compares every weight bit for bit; reading finds the same content again."""
    if granularity == "channel" and levels > 16:
        pytest.skip("codebooks as large as the weights")
    source, small, plain = chain(build, name), tmp_path / "o.onnx", tmp_path / "r.onnx"
    report = compress(source, small, Options(levels=levels, granularity=granularity, method="uq"))
    assert len(report.weights) == COUNT
    assert report.outputs.equal
    assert operators(small)["Split"] == 1
    found = {weight.name: weight for weight in inspect(small).weights}
    for expected in report.weights:
        weight = found[expected.name]
        assert (weight.shape, weight.levels_used) == (expected.shape, expected.levels_used)
        assert weight.entropy == pytest.approx(expected.entropy)
        assert weight.bytes_after == expected.bytes_after
    digests = {weight.name: weight.digest() for weight in read(load(small))}
    restore(small, plain)
    assert verify(small, plain).weights.equal
    assert len(digests) == COUNT


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("granularity", ["tensor", "scale", "channel"])
def test_other_dtypes(build: Build, tmp_path: Path, dtype: type, granularity: str) -> None:
    source = chain(build, "matrices of odd size", dtype)
    report = compress(source, tmp_path / "o.onnx", Options(bits=4, granularity=granularity))
    assert operators(tmp_path / "o.onnx")["Split"] == 1
    assert len(report.weights) == COUNT


def test_the_runtime_folds_the_stack(build: Build, tmp_path: Path) -> None:
    small, optimized = tmp_path / "o.onnx", tmp_path / "optimized.onnx"
    compress(chain(build, "kernels"), small, Options(bits=4, granularity="scale"))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(optimized)
    ort.InferenceSession(small, options)
    assert operators(optimized) == {"Conv": COUNT, "Tanh": COUNT}


def test_nodes_do_not_grow_with_the_weights(build: Build, tmp_path: Path) -> None:
    counts = []
    for count in (FEWEST, 4 * FEWEST):
        compress(
            chain(build, "kernels", count=count),
            tmp_path / "o.onnx",
            Options(method="kmeans", bits=4),
        )
        counts.append(sum(operators(tmp_path / "o.onnx").values()) - 3 * count)
    assert counts[0] == counts[1]


def test_few_or_large_weights_stay_apart(build: Build, tmp_path: Path) -> None:
    compress(
        chain(build, "kernels", count=FEWEST - 1),
        tmp_path / "few.onnx",
        Options(method="kmeans", bits=4),
    )
    assert "Split" not in operators(tmp_path / "few.onnx")
    side = int(LARGEST**0.5) + 1
    body = "  ".join(f"y{n} = MatMul(x, w{n})" for n in range(FEWEST))
    kind = ", ".join(f"float[N,{side}] y{n}" for n in range(FEWEST))
    text = f"{HEAD} m (float[N,{side}] x) => ({kind}) {{ {body} }}"
    arrays = {f"w{n}": normal(side, side, seed=n) for n in range(FEWEST)}
    compress(build(text, arrays), tmp_path / "large.onnx", Options(method="kmeans", bits=4))
    assert "Split" not in operators(tmp_path / "large.onnx")


def test_bits_by_name_make_two_stacks(build: Build, tmp_path: Path) -> None:
    source = chain(build, "kernels", count=60)
    options = Options(method="kmeans", bits=3, bits_for={"w[12]*": 6})
    report = compress(source, tmp_path / "o.onnx", options)
    assert operators(tmp_path / "o.onnx")["Split"] == 2
    assert {weight.bits for weight in report.weights} == {3, 6}


def test_weights_that_a_subgraph_uses(build: Build, tmp_path: Path) -> None:
    layers = "  ".join(f"a{n} = MatMul(x, w{n})" for n in range(FEWEST))
    total = ", ".join(f"a{n}" for n in range(FEWEST))
    text = f"""{HEAD} m (float[N,33] x) => (float[N,33] y) {{ y = If(yes) <
      then_branch = t () => (float[N,33] p) {{ {layers}  p = Sum({total}) }},
      else_branch = e () => (float[N,33] q) {{ q = Identity(x) }}> }}"""
    arrays = {f"w{n}": normal(33, 33, seed=n) for n in range(FEWEST)}
    report = compress(build(text, arrays | {"yes": np.array(True)}), tmp_path / "o.onnx")
    assert len(report.weights) == FEWEST
    assert verify(tmp_path / "o.onnx", tmp_path / "o.onnx").equal


def test_calibrated_small_weights(build: Build, tmp_path: Path) -> None:
    source = chain(build, "matrices of odd size")
    calibration = Calibration(target=Target(ratio=4))
    report = compress(source, tmp_path / "o.onnx", calibration=calibration)
    assert report.bytes_after <= report.bytes_before / 4
    assert len(inspect(tmp_path / "o.onnx").weights) == COUNT


@pytest.mark.parametrize("change", ["sizes", "axis"])
def test_a_forged_split_is_refused(build: Build, tmp_path: Path, change: str) -> None:
    small = tmp_path / "o.onnx"
    compress(chain(build, "kernels"), small, Options(method="kmeans", bits=4))
    model = onnx.load(small)
    (node,) = (node for node in model.graph.node if node.op_type == "Split")
    if change == "axis":
        node.attribute[0].i = 1
    else:
        (sizes,) = (t for t in model.graph.initializer if t.name == node.input[1])
        sizes.CopyFrom(onnx.numpy_helper.from_array(np.full(COUNT, 10**6), sizes.name))
    onnx.save(model, small)
    with pytest.raises(QqonnxError, match="its stack is not divided"):
        inspect(small)

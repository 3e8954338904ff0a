"""Weights quantized in blocks for ONNX Runtime's MatMulNBits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx import Options, QqonnxError, compress, inspect, restore
from qqonnx.encoding import matmulnbits
from qqonnx.encoding.blocks import BITS, BLOCK_LENGTH
from qqonnx.encoding.verify import compare_weights
from qqonnx.model.compare import compare_outputs
from qqonnx.model.load import read
from qqonnx.model.select import select

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 70] x) => (float[n, 3, 24] y) {
    a = Gemm <transB = 1> (x, first, bias)
    b = Gemm(a, second)
    c = MatMul(b, third)
    d = MatMul(c, third)
    e = Gemm <alpha = 0.5> (d, scaled)
    f = Unsqueeze(e, one)
    z = Add(f, kept)
    y = MatMul(z, last)
}
"""


def model(build: Build) -> Path:
    arrays = {
        "first": normal(40, 70),
        "second": normal(40, 33, seed=1),
        "third": normal(33, 33, seed=2),
        "scaled": normal(33, 48, seed=3),
        "last": normal(48, 24, seed=4),
        "bias": normal(40, seed=5),
        "kept": normal(3, 48, seed=6),
        "one": np.array([1]),
    }
    return build(TEXT, arrays)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_whole_way(build: Build, tmp_path: Path, bits: int) -> None:
    path, packed, plain = model(build), tmp_path / "packed.onnx", tmp_path / "plain.onnx"
    report = compress(path, packed, Options(bits=bits, operators="matmulnbits", method="uq"))
    assert report.outputs.equal
    blocked = {w.name for w in report.weights if w.granularity == "block"}
    assert blocked == {"first", "second", "third", "last"}
    nodes = [node.op_type for node in onnx.load(packed).graph.node]
    assert nodes.count("MatMulNBits") == 5
    found = {weight.name: weight for weight in inspect(packed).weights}
    assert {w.name: w.bytes_after for w in report.weights} == {
        name: weight.bytes_after for name, weight in found.items()
    }
    assert found["second"].sqnr == pytest.approx(
        next(w.sqnr for w in report.weights if w.name == "second"), rel=1e-3
    )
    assert restore(packed, plain) == 5
    assert compare_weights(read(packed), read(plain)).equal
    assert compare_outputs(plain, packed).equal
    assert "MatMulNBits" not in [node.op_type for node in onnx.load(plain).graph.node]
    original = ort.InferenceSession(path).run(None, {"x": normal(2, 70, seed=9)})[0]
    outputs = ort.InferenceSession(packed).run(None, {"x": normal(2, 70, seed=9)})[0]
    error = np.abs(outputs - original).max() / np.abs(original).max()
    assert error < (0.3 if bits == 4 else 0.03)


@settings(deadline=None)
@given(
    inner=st.integers(1, 100),
    outer=st.integers(1, 9),
    bits=st.sampled_from(BITS),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
    shift=st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_error_is_at_most_a_step(
    inner: int, outer: int, bits: int, scale: float, shift: float
) -> None:
    values = ((normal(inner, outer) + shift) * scale).astype(np.float32)
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, k] x) => (float[n, m] y) { y = MatMul(x, w) }
    """)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    from onnx_ir import from_proto

    (weight,), _ = select(from_proto(graph))
    blocked = matmulnbits.encode_blocks(weight, bits)
    for start in range(0, inner, BLOCK_LENGTH):
        part = slice(start, start + BLOCK_LENGTH)
        low, high = values[part].min(axis=0), values[part].max(axis=0)
        step = (np.maximum(high, 0) - np.minimum(low, 0)) / (2**bits - 1)
        gap = np.abs(blocked.blocks.decoded()[part].astype(np.float64) - values[part])
        assert (gap <= step * 1.01).all()
    assert blocked.counts.sum() == inner * outer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(bits=3, operators="matmulnbits"), "takes 4 or 8, not 3"),
        (Options(bits=8, operators="matmulnbits", bits_for={"third": 5}), "not 5 .*third"),
        (Options(operators="coreml"), "operators: must be one of"),
    ],
)
def test_bad_options(build: Build, tmp_path: Path, options: Options, message: str) -> None:
    path = model(build)
    with pytest.raises(QqonnxError, match=message):
        compress(path, tmp_path / "o.onnx", options)


@pytest.mark.parametrize(
    "change", [{"N": 2**40}, {"K": 1}, {"bits": 3}, {"block_size": 16}, {"K": -5}]
)
def test_nodes_that_do_not_fit(build: Build, tmp_path: Path, change: dict[str, int]) -> None:
    path, packed = model(build), tmp_path / "packed.onnx"
    compress(path, packed, Options(bits=4, operators="matmulnbits"))
    proto = onnx.load(packed)
    node = next(node for node in proto.graph.node if node.op_type == "MatMulNBits")
    for attribute in node.attribute:
        attribute.i = change.get(attribute.name, attribute.i)
    onnx.save(proto, packed)
    for action in (lambda: inspect(packed), lambda: restore(packed, tmp_path / "o.onnx")):
        with pytest.raises(QqonnxError, match="does not fit"):
            action()

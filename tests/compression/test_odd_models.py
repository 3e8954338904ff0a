"""Models with types and scopes that are rare: compressed and run, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Options, QqonnxError, compress, inspect, restore
from qqonnx.compression.results import CompressReport
from qqonnx.config import Calibration, Target

HEAD = '<ir_version: 8, opset_import: ["": 17, "own": 1]>'


def run(path: Path, **inputs: object) -> list:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)


def compressed(model: Path, names: set[str], **inputs: object) -> tuple[CompressReport, list]:
    """Compress at 8 bits; assert which weights were, and that outputs stay, restored too."""
    packed, plain = model.with_name("packed.onnx"), model.with_name("plain.onnx")
    report = compress(model, packed, Options(bits=8, granularity="scale"))
    assert {weight.name for weight in report.weights} == names
    assert {weight.name for weight in inspect(packed).weights} == names
    restore(packed, plain)
    found = run(packed, **inputs)
    for other, tolerance in ((model, 0.05), (plain, 1e-3)):
        for left, right in zip(found, run(other, **inputs), strict=True):
            if isinstance(left, np.ndarray) and left.dtype.kind == "f":
                assert np.abs(left - right).max() <= tolerance * np.abs(right).max()
            elif isinstance(left, np.ndarray):
                assert left.tolist() == right.tolist()
    return report, found


def test_strings(build: Build) -> None:
    text = f"""{HEAD}
    m (float[N,64] x, string[K] asked) => (string[N] label, float[N,40] y, string[K] same) {{
        y = MatMul(x, w)
        best = ArgMax <axis = 1, keepdims = 0> (y)
        label = Gather(names, best)
        same = Identity(asked)
    }}"""
    names = np.array([f"class {n}" for n in range(40)], object)
    report, found = compressed(
        build(text, {"w": normal(64, 40), "names": names}),
        {"w"},
        x=normal(3, 64, seed=1),
        asked=np.array(["a", ""], object),
    )
    assert report.outputs.equal
    assert [names[n] for n in found[1].argmax(axis=1)] == found[0].tolist()
    assert found[2].tolist() == ["a", ""]


def test_a_batch_on_an_inner_axis(build: Build) -> None:
    """A signal [batch, samples] beside a state [layers, batch, width], as in speech models."""
    text = f"""{HEAD}
    m (float[?,?] x, float[2,?,64] state) => (float[2,64] y) {{
        shape = Constant <value = int64[2] {{2, 64}}> ()
        kept = Reshape(state, shape)
        a = MatMul(x, w)
        y = Add(a, kept)
    }}"""
    inputs = {"x": normal(1, 64, seed=1), "state": normal(2, 1, 64, seed=2)}
    report, _ = compressed(build(text, {"w": normal(64, 64)}), {"w"}, **inputs)
    assert report.outputs.equal


def test_optional_and_sequence_inside(build: Build) -> None:
    text = f"""{HEAD}
    m (float[N,64] x) => (float[N,40] y, bool there, seq(float[N,64]) parts) {{
        a = MatMul(x, w)
        o = Optional(a)
        there = OptionalHasElement(o)
        b = OptionalGetElement(o)
        parts = SequenceConstruct(a, b)
        zero = Constant <value = int64 {{0}}> ()
        c = SequenceAt(parts, zero)
        y = MatMul(c, u)
    }}"""
    arrays = {"w": normal(64, 64), "u": normal(64, 40, seed=1)}
    report, found = compressed(build(text, arrays), {"w", "u"}, x=normal(3, 64, seed=2))
    assert report.outputs.equal
    assert found[1]
    assert len(found[2]) == 2


@pytest.mark.parametrize(
    ("kind", "body", "inputs"),
    [
        ("optional(float[1,64])", "a = OptionalGetElement(x)", normal(1, 64, seed=1)),
        (
            "seq(float[1,64])",
            "zero = Constant <value = int64 {0}> ()  a = SequenceAt(x, zero)",
            [normal(1, 64, seed=1)],
        ),
    ],
)
def test_inputs_without_a_generator(build: Build, kind: str, body: str, inputs: object) -> None:
    text = f"{HEAD} m ({kind} x) => (float[1,40] y) {{ {body}  y = MatMul(a, w) }}"
    report, _ = compressed(build(text, {"w": normal(64, 40)}), {"w"}, x=inputs)
    # Noise has no such input; the synthetic samples of calibration may.
    assert report.outputs.equal or "input 'x' is a " in (report.outputs.reason or "")


def test_a_weight_read_in_several_scopes_is_stored_once(build: Build) -> None:
    """In the graph, in both branches, and by a function that gets it as an argument."""
    text = f"""{HEAD}
    m (float[N,64] x, bool c) => (float[N,64] y) {{
        a = MatMul(x, w)
        b = own.times(a, w)
        y = If(c) <
            then_branch = t () => (float[N,64] p) {{ p = MatMul(b, w) }},
            else_branch = e () => (float[N,64] q) {{ r = MatMul(b, w)  q = Neg(r) }}>
    }}
    <domain: "own", opset_import: ["": 17]>
    times (i, k) => (o) {{ o = MatMul(i, k) }}"""
    model = build(text, {"w": normal(64, 64) / np.float32(8)})
    for chosen in (True, False):
        report, _ = compressed(model, {"w"}, x=normal(2, 64, seed=1), c=np.array(chosen))
        assert report.weights[0].bytes_after == 64 * 64 + 4 * (256 + 64)
        assert report.bytes_after < 64 * 64 + 4 * 320 + 2500


@pytest.mark.parametrize("operators", ["standard", "matmulnbits"])
def test_attributes_that_a_function_sets(build: Build, tmp_path: Path, operators: str) -> None:
    text = f"""{HEAD}
    m (float[N,64] x) => (float[N,64] y) {{
        y = own.layer <flip = 1, order = [1, 0]> (x)
    }}
    <domain: "own", opset_import: ["": 17]>
    layer <flip, order> (i) => (o) {{
        w = Constant <value = float[64,64] {{{", ".join(map(str, normal(64 * 64).tolist()))}}}> ()
        u = Constant <value = float[64,64] {{{", ".join(map(str, normal(64 * 64).tolist()))}}}> ()
        a = Gemm <transB: int = @flip> (i, w)
        v = Transpose <perm: ints = @order> (u)
        o = MatMul(a, v)
    }}"""
    model, packed = build(text, {}), tmp_path / "packed.onnx"
    report = compress(model, packed, Options(bits=8, granularity="scale", operators=operators))
    assert {weight.name for weight in report.weights} == {"w", "u"}
    assert report.outputs.equal
    x = normal(3, 64, seed=2)
    expected, found = run(model, x=x)[0], run(packed, x=x)[0]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm <transB = 1.0> (x, w)",
        "y = Gemm <alpha = [1, 2]> (x, w)",
        'v = Transpose <perm = "10"> (w)  y = MatMul(x, v)',
    ],
)
@pytest.mark.parametrize("operators", ["standard", "matmulnbits"])
def test_attributes_of_another_type(
    build: Build, tmp_path: Path, body: str, operators: str
) -> None:
    path = build(f"{HEAD} m (float[N,64] x) => (float[N,64] y) {{ {body} }}", {"w": normal(64, 64)})
    assert [plain.name for plain in inspect(path).plain] == ["w"]
    report = compress(path, tmp_path / "o.onnx", Options(bits=8, operators=operators))
    assert "ONNX Runtime does not load it" in (report.outputs.reason or "")


@pytest.mark.parametrize("and_used", [True, False])
def test_an_initializer_of_a_branch_that_is_its_output(build: Build, and_used: bool) -> None:
    text = f"""{HEAD}
    m (float[64,64] x, bool c) => (float[64,64] y) {{
        y = If(c) <
            then_branch = t () => (float[64,64] p) {{ p = MatMul(x, other) }},
            else_branch = e () => (float[64,64] q) {{ q = Relu(x) }}>
    }}"""
    path = build(text, {"other": normal(64, 64)})
    proto = onnx.load(path)
    branch = proto.graph.node[0].attribute[1].g
    branch.initializer.append(onnx.numpy_helper.from_array(normal(64, 64, seed=1), "inner"))
    del branch.node[:]
    if and_used:
        branch.node.append(onnx.helper.make_node("MatMul", ["x", "inner"], ["unread"]))
    branch.output[0].name = "inner"
    onnx.save(proto, path)
    names = {"other", "inner"} if and_used else {"other"}
    for chosen in (True, False):
        compressed(path, names, x=normal(64, 64, seed=2), c=np.array(chosen))


@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_sparse_tensors_are_refused(build: Build, tmp_path: Path, place: str) -> None:
    text = f"{HEAD} m (float[N,64] x) => (float[N,64] y) {{ a = MatMul(x, w)  y = MatMul(a, s) }}"
    path = build(text, {"w": normal(64, 64), "s": normal(64, 64)})
    proto = onnx.load(path)
    del proto.graph.initializer[1]
    values = onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = onnx.helper.make_tensor("s_indices", onnx.TensorProto.INT64, [2], [3, 70])
    sparse = onnx.helper.make_sparse_tensor(values, indices, [64, 64])
    if place == "initializer":
        proto.graph.sparse_initializer.append(sparse)
    else:
        node = onnx.helper.make_node("Constant", [], ["s"], sparse_value=sparse)
        proto.graph.node.insert(0, node)
    path.write_bytes(proto.SerializeToString())
    assert run(path, x=normal(1, 64))[0].shape == (1, 64)
    with pytest.raises(QqonnxError, match="sparse (initializers|tensors) are not supported"):
        compress(path, tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_models_without_a_float_weight(build: Build, tmp_path: Path) -> None:
    """Quantized already: what is left are scales."""
    text = f"""{HEAD}
    m (float[N,64] x) => (float[N,40] y) {{
        w = DequantizeLinear(q, scale, zero)
        y = MatMul(x, w)
    }}"""
    arrays = {
        "q": np.random.default_rng(0).integers(-128, 128, (64, 40)).astype(np.int8),
        "scale": np.float32(0.1),
        "zero": np.int8(0),
    }
    path = build(text, {name: np.asarray(array) for name, array in arrays.items()})
    with pytest.raises(QqonnxError, match="holds no float weight to compress"):
        compress(path, tmp_path / "o.onnx")
    assert inspect(path).weights == ()


LOOP = """{
    count = Constant <value = int64 {3}> ()
    true = Constant <value = bool {1}> ()
    a = MatMul(x, u)
    y = Loop(count, true, a) <body = step (int64 i, bool c, float[N,64] s)
        => (bool d, float[N,64] t) { p = MatMul(s, w)  t = Tanh(p)  d = Identity(c) }>
}"""
OPTIONAL = """{
    a = MatMul(x, u)
    o = Optional(a)
    b = OptionalGetElement(o)
    parts = SequenceConstruct(a, b)
    y = MatMul(b, w)
}"""
STRINGS = """{
    a = MatMul(x, u)
    y = MatMul(a, w)
    best = ArgMax <axis = 1, keepdims = 0> (y)
    label = Gather(names, best)
}"""


@pytest.mark.parametrize(
    ("body", "also"),
    [(LOOP, ""), (OPTIONAL, ", seq(float[N,64]) parts"), (STRINGS, ", string[N] label")],
    ids=["loop", "optional", "strings"],
)
def test_calibrated(build: Build, tmp_path: Path, body: str, also: str) -> None:
    arrays = {
        "w": normal(64, 64) / np.float32(8),
        "u": normal(64, 64, seed=1),
        "names": np.array([f"class {n}" for n in range(64)], object),
    }
    model = build(f"{HEAD} m (float[N,64] x) => (float[N,64] y{also}) {body}", arrays)
    calibration = Calibration(target=Target(bits=8.0))
    report = compress(model, tmp_path / "o.onnx", calibration=calibration)
    assert report.outputs.equal
    assert {weight.name for weight in report.weights} == {"w", "u"}
    assert report.bytes_after <= 1.1 * 2 * 64 * 64

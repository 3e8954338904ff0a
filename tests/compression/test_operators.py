"""Weights in every place where models keep them, compressed and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Options, compress, inspect, restore
from qqonnx.model.load import load
from qqonnx.model.select import select

HEAD = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>"""


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(path).run(None, inputs)[0]


def check(model: Path, folder: Path, names: set[str], **inputs: np.ndarray) -> None:
    """Assert that 4 bits keep the outputs roughly, and that restoring keeps them fully."""
    packed, plain = folder / "packed.onnx", folder / "plain.onnx"
    for granularity in ("tensor", "channel", "scale"):
        report = compress(model, packed, Options(bits=4, granularity=granularity, min_size=64))
        assert {weight.name for weight in report.weights} == names
        assert report.outputs.equal
        assert [weight.bytes_after for weight in inspect(packed).weights] == [
            weight.bytes_after for weight in report.weights
        ]
        restore(packed, plain)
        exact, found, restored = (run(path, **inputs) for path in (model, packed, plain))
        assert np.linalg.norm(found - exact) < 0.25 * np.linalg.norm(exact)
        np.testing.assert_allclose(restored, found, atol=1e-3 * np.abs(found).max())


@pytest.mark.parametrize(
    ("body", "shapes", "weights"),
    [
        ("y = ConvTranspose(x, w)", {"w": (8, 192, 3, 3)}, {"w"}),
        ("y = Gemm<transB = 1>(f, w, b)", {"w": (64, 648), "b": (64,)}, {"w"}),
        ("y = Gemm<transA = 1>(w, g)", {"w": (648, 640)}, {"w"}),
        ('y = Einsum<equation = "nk,km->nm">(f, w)', {"w": (648, 96)}, {"w"}),
        ("v = Squeeze(w, zero)  y = MatMul(f, v)", {"w": (1, 648, 96)}, {"w"}),
        ("v = Unsqueeze(w, zero)  y = MatMul(f, v)", {"w": (648, 96)}, {"w"}),
        ("v = Reshape(w, shape)  y = MatMul(f, v)", {"w": (96, 648)}, {"w"}),
        ("v = Cast<to = 1>(w)  y = MatMul(f, v)", {"w": (648, 96)}, {"w"}),
        ("y = Conv(x, w)  z = Conv(x, w)", {"w": (192, 8, 3, 3)}, {"w"}),
        (
            'y = com.microsoft.FusedConv<activation = "Relu">(x, w, b)',
            {"w": (192, 8, 3, 3), "b": (192,)},
            {"w"},
        ),
        ("y = com.microsoft.FusedMatMul<transB = 1>(f, w)", {"w": (96, 648)}, {"w"}),
        (
            'y = com.microsoft.FusedGemm<activation = "Relu">(f, w, b)',
            {"w": (648, 96), "b": (96,)},
            {"w"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operators(
    build: Build, tmp_path: Path, body: str, shapes: dict[str, tuple[int, ...]], weights: set[str]
) -> None:
    text = f"""{HEAD}
    m (float[N,8,9,9] x) => (float y) {{
      zero = Constant<value = int64[1] {{0}}>()
      shape = Constant<value = int64[2] {{648, 96}}>()
      f = Flatten(x)  g = Transpose(f)
      {body} }}"""
    arrays = {
        name: normal(*shape, dtype=np.float16 if "Cast" in body else np.float32)
        for name, shape in shapes.items()
    }
    if "Gemm<transA" in body:
        text = text.replace("g = Transpose(f)", "g = Reshape(x, column)")
        text = text.replace("f = Flatten(x)", "column = Constant<value = int64[2] {648, -1}>()")
    model = build(text, arrays)
    check(model, tmp_path, weights, x=normal(2, 8, 9, 9, seed=1))


@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent(build: Build, tmp_path: Path, kind: str, gates: int, directions: int) -> None:
    hidden, size = 48, 40
    direction = ', direction = "bidirectional"' if directions == 2 else ""
    text = f"""{HEAD}
    m (float[T,N,{size}] x) => (float y) {{
      y = {kind}<hidden_size = {hidden}{direction}>(x, w, r, b) }}"""
    arrays = {
        "w": normal(directions, gates * hidden, size) * np.float32(0.2),
        "r": normal(directions, gates * hidden, hidden, seed=1) * np.float32(0.2),
        "b": normal(directions, 2 * gates * hidden, seed=2) * np.float32(0.2),
    }
    model = build(text, arrays)
    assert {weight.channel_axis for weight in select(load(model))[0]} == {1}
    check(model, tmp_path, {"w", "r"}, x=normal(5, 3, size, seed=3))


def test_embedding(build: Build, tmp_path: Path) -> None:
    text = f"{HEAD} m (int64[N] x) => (float y) {{ y = Gather(w, x) }}"
    model = build(text, {"w": normal(300, 48)})
    check(model, tmp_path, {"w"}, x=np.array([3, 1, 299]))


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_loop(build: Build, tmp_path: Path, where: str) -> None:
    values = ", ".join(map(str, (normal(64 * 64) / 10).tolist()))
    inner = f"w = Constant<value = float[64,64] {{{values}}}>()" if where == "inside" else ""
    text = f"""{HEAD}
    m (float[N,64] x) => (float[N,64] y) {{
      count = Constant<value = int64 {{3}}>()
      true = Constant<value = bool {{1}}>()
      y = Loop(count, true, x) <body = step (int64 i, bool c, float[N,64] s)
        => (bool d, float[N,64] t) {{
          {inner}
          p = MatMul(s, w)  t = Tanh(p)  d = Identity(c)
      }}> }}"""
    model = build(text, {"w": normal(64, 64) * np.float32(0.1)} if where == "outside" else {})
    check(model, tmp_path, {"w"}, x=normal(2, 64, seed=1) * np.float32(0.01))


def test_scan(build: Build, tmp_path: Path) -> None:
    text = f"""{HEAD}
    m (float[2,64] x, float[5,2,64] xs) => (float[2,64] y) {{
      y = Scan<num_scan_inputs = 1, body = step (float[2,64] s, float[2,64] e) => (float[2,64] t) {{
          p = MatMul(s, w)  q = Add(p, e)  t = Tanh(q)
      }}>(x, xs) }}"""
    model = build(text, {"w": normal(64, 64) * np.float32(0.1)})
    check(model, tmp_path, {"w"}, x=normal(2, 64, seed=1), xs=normal(5, 2, 64, seed=2))


def test_one_name_in_several_scopes(build: Build, tmp_path: Path) -> None:
    """Sibling subgraphs and functions may each call another weight `w`."""
    numbers = [", ".join(map(str, normal(64 * 64, seed=seed).tolist())) for seed in range(4)]
    constants = [f"w = Constant<value = float[64,64] {{{text}}}>()" for text in numbers]
    text = f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
    m (float[N,64] x, bool c) => (float[N,64] y) {{
      b = If(c) <
        then_branch = t () => (float[N,64] p) {{ {constants[0]}  p = MatMul(x, w) }},
        else_branch = e () => (float[N,64] q) {{ {constants[1]}  q = MatMul(x, w) }}>
      d = own.first(b)
      y = own.second(d)
    }}
    <domain: "own", opset_import: ["": 17]>
    first (i) => (o) {{ {constants[2]}  o = MatMul(i, w) }}
    <domain: "own", opset_import: ["": 17]>
    second (i) => (o) {{ {constants[3]}  o = MatMul(i, w) }}"""
    model = build(text, {})
    names = {weight.name for weight in select(load(model))[0]}
    assert len(names) == 4
    for chosen in (True, False):
        check(model, tmp_path, names, x=normal(2, 64, seed=9), c=np.array(chosen))


def test_a_weight_that_is_an_output_too(build: Build, tmp_path: Path) -> None:
    text = f"{HEAD} m (float[N,64] x) => (float[N,64] y, float[64,64] w) {{ y = MatMul(x, w) }}"
    model = build(text, {"w": normal(64, 64)})
    check(model, tmp_path, {"w"}, x=normal(2, 64, seed=1))
    assert [output.name for output in onnx.load(tmp_path / "packed.onnx").graph.output] == [
        "y",
        "w",
    ]


def test_decoding_folds_away_inside_a_subgraph(build: Build, tmp_path: Path) -> None:
    text = f"""{HEAD}
    m (float[N,64] x, bool c) => (float[N,64] y) {{
      y = If(c) <
        then_branch = t () => (float[N,64] p) {{ p = MatMul(x, w) }},
        else_branch = e () => (float[N,64] q) {{ q = Neg(x) }}> }}"""
    packed, optimized = tmp_path / "packed.onnx", tmp_path / "optimized.onnx"
    compress(build(text, {"w": normal(64, 64)}), packed, Options(bits=3))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    ort.InferenceSession(packed, options)
    graph = onnx.load(optimized).graph
    assert {node.op_type for node in graph.node} == {"If"}

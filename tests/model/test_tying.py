"""Equal weights, stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Calibration, Options, Target, compress, restore

HEAD = '<ir_version: 8, opset_import: ["": 17]> '
W = normal(300, 48)

TIED = {
    "transposed embedding": (
        "m (int64[N] x) => (float[N,300] y) { e = Gather(w, x)  t = Tanh(e)  y = MatMul(t, v) }",
        {"w": W, "v": np.ascontiguousarray(W.T)},
    ),
    "output first": (
        "m (float[N,48] x) => (float[N,M] y) { a = MatMul(x, v)  s = ArgMax<axis = 1>(a) "
        "y = Gather(w, s) }",
        {"v": np.ascontiguousarray(W.T), "w": W},
    ),
    "equal layers": (
        "m (float[N,300] x) => (float[N,48] y) { a = MatMul(x, w)  b = Tanh(x) "
        "c = MatMul(b, v)  y = Add(a, c) }",
        {"w": W, "v": W.copy()},
    ),
    "equal kernels": (
        "m (float[N,24,H,H] x) => (float[N,24,I,I] y) { a = Conv(x, w)  b = Relu(a) "
        "y = Conv(b, v) }",
        {"w": normal(24, 24, 3, 3), "v": normal(24, 24, 3, 3)},
    ),
    "a branch": (
        """m (int64[N] x) => (float[N,M] y) { s = Gather(t, x)  y = If(yes) <
          then_branch = p () => (float[N,M] b) { b = MatMul(s, v) },
          else_branch = q () => (float[N,M] c) { c = MatMul(s, u) }> }""",
        {
            "t": W,
            "v": np.ascontiguousarray(W.T),
            "u": np.ascontiguousarray(W.T),
            "yes": np.array(True),
        },
    ),
}


def feed(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    (entry,) = session.get_inputs()
    shape = [dim if isinstance(dim, int) else 12 for dim in entry.shape]
    return {"x": np.arange(12) if "int64" in entry.type else normal(*shape)}


@pytest.mark.parametrize("granularity", ["tensor", "scale", "channel"])
@pytest.mark.parametrize(("text", "arrays"), TIED.values(), ids=TIED)
def test_equal_weights_are_stored_once(
    build: Build, tmp_path: Path, text: str, arrays: dict, granularity: str
) -> None:
    source, small, plain = build(HEAD + text, arrays), tmp_path / "o.onnx", tmp_path / "r.onnx"
    # A codebook of 256 levels per channel would be as large as the channel.
    bits = 4 if granularity == "channel" else 8
    report = compress(source, small, Options(bits=bits, granularity=granularity))
    assert len(report.weights) == 1
    copies = sum(array.nbytes for array in arrays.values())
    assert small.stat().st_size < copies / 2 * 0.6
    restore(small, plain)
    session = ort.InferenceSession(source)
    expected, *others = (
        ort.InferenceSession(path).run(None, feed(session))[0] for path in (source, small, plain)
    )
    assert np.allclose(others[0], others[1], atol=1e-4)
    if "ArgMax" not in text:
        assert np.abs(others[0] - expected).mean() < 0.2 * np.abs(expected).mean()


def test_the_runtime_folds_the_transpose(build: Build, tmp_path: Path) -> None:
    text, arrays = TIED["transposed embedding"]
    small, optimized = tmp_path / "o.onnx", tmp_path / "optimized.onnx"
    compress(build(HEAD + text, arrays), small, Options(bits=4, granularity="scale"))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    ort.InferenceSession(small, options)
    nodes = onnx.load(optimized).graph.node
    assert sorted(node.op_type for node in nodes) == ["Gather", "MatMul", "Tanh"]


def test_calibration_counts_a_tied_weight_once(build: Build, tmp_path: Path) -> None:
    text, arrays = TIED["transposed embedding"]
    target = Target(bits=6)
    report = compress(
        build(HEAD + text, arrays), tmp_path / "o.onnx", calibration=Calibration(target=target)
    )
    assert len(report.weights) == 1
    assert 0.9 * 6 * W.size / 8 < report.bytes_after <= 6 * W.size / 8


DIFFERENT = {
    "by name": ({"v": W.copy()}, Options(bits_for={"v": 3})),
    "skipped": ({"v": W.copy()}, Options(skip=["v"])),
    "in one bit": ({"v": np.where(np.arange(W.size).reshape(W.shape) == 7, -W, W)}, Options()),
    "negative zero": ({"w": np.where(W > 1, 0.0, W).astype("f4"),
                       "v": np.where(W > 1, -0.0, W).astype("f4")}, Options()),
    "in shape": ({"v": W.reshape(48, 300)[:, :300].copy()}, Options()),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "options"), DIFFERENT.values(), ids=DIFFERENT)
def test_weights_that_differ_stay_apart(build: Build, arrays: dict, options: Options) -> None:
    text = "m (int64[N] x) => (float[N,48] y, float[N,M] z) { y = Gather(w, x)  z = Gather(v, x) }"
    path = build(HEAD + text, {"w": W, **arrays})
    report = compress(path, options=options)
    assert report.model is not None
    names = {name for node in report.model.graph.node for name in node.output}
    stored = {tensor.name for tensor in report.model.graph.initializer}
    assert {"w", "v"} <= names | stored


def test_constant_nodes(build: Build, tmp_path: Path) -> None:
    """The first copy may come after the first use."""
    values = ", ".join(f"{value:.4f}" for value in normal(40 * 32).tolist())
    text = f"""m (float[N,40] x) => (float[N,32] y) {{
      w = Constant<value = float[40,32] {{{values}}}>()  a = MatMul(x, w)  b = Tanh(x)
      v = Constant<value = float[40,32] {{{values}}}>()  c = MatMul(b, v)  y = Add(a, c) }}"""
    report = compress(build(HEAD + text, {}), tmp_path / "o.onnx", Options(bits=8))
    assert [weight.name for weight in report.weights] == ["w"]
    assert report.quality.outputs[0].relative_error < 0.05

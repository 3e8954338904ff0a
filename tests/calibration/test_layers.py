"""Weights as matrices, and their inputs: the product of both is what the operator computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from building import Build, normal
from rich.console import Console

from qqonnx import Calibration, Options, compress, inspect
from qqonnx.calibration.layers import layer_of
from qqonnx.calibration.patches import patches
from qqonnx.cli.tables import inspection_summary
from qqonnx.model.load import load
from qqonnx.model.select import select

HEAD = '<ir_version: 8, opset_import: ["": 17]> '

TRANSPOSED = {
    "plain": ("", (1, 6, 9), (6, 5, 4)),
    "strides": ("<strides = [2]>", (2, 6, 9), (6, 5, 4)),
    "padding": ("<strides = [3], pads = [2, 1], dilations = [2]>", (2, 6, 9), (6, 5, 3)),
    "cut off": ("<pads = [3, 3]>", (1, 6, 9), (6, 5, 2)),
    "output padding": ("<strides = [3], output_padding = [2]>", (1, 6, 9), (6, 5, 4)),
    "two axes": ("<strides = [2, 1], pads = [1, 0, 0, 1]>", (2, 6, 5, 7), (6, 5, 4, 3)),
    "groups": ("<group = 3, strides = [2]>", (2, 6, 9), (6, 5, 4)),
}


@pytest.mark.parametrize(("attributes", "inputs", "shape"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_matrix_times_patches_is_the_transposed_convolution(
    build: Build, attributes: str, inputs: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    axes = ",".join("N" * len(inputs))
    text = f"""{HEAD} m (float[{axes}] x) => (float[{axes.replace("N", "M")}] y) {{
      y = ConvTranspose{attributes}(x, w) }}"""
    path, w, x = build(text, {"w": normal(*shape)}), normal(*shape), normal(*inputs, seed=1)
    (weight,), _ = select(load(path))
    layer = layer_of(weight)
    assert layer is not None
    assert np.array_equal(layer.weight(layer.matrix(w)), w)
    columns = patches(layer, x, 10**6, np.random.default_rng(0))
    product = (layer.matrix(w) @ columns).reshape(-1, columns.shape[2])
    (y,) = ort.InferenceSession(path).run(None, {"x": x})
    assert np.allclose(product, np.moveaxis(y, 1, 0).reshape(product.shape), atol=1e-4)


RECURRENT = {
    "LSTM": ("LSTM", 4, ""),
    "GRU": ("GRU", 3, ""),
    "RNN": ("RNN", 1, ""),
    "both directions": ("LSTM", 4, ', direction = "bidirectional"'),
}


def recurrent(build: Build, operator: str, gates: int, direction: str) -> Path:
    count = 2 if direction else 1
    text = f"""{HEAD} m (float[T,B,32] x) => (float[T,D,B,24] y) {{
      y = {operator}<hidden_size = 24{direction}>(x, w, r) }}"""
    arrays = {"w": normal(count, 24 * gates, 32) / 6, "r": normal(count, 24 * gates, 24) / 5}
    return build(text, arrays)


@pytest.mark.parametrize(("operator", "gates", "direction"), RECURRENT.values(), ids=RECURRENT)
def test_recurrent_weights(build: Build, operator: str, gates: int, direction: str) -> None:
    """The weights of inputs see the inputs of all steps, those of states the states."""
    path = recurrent(build, operator, gates, direction)
    layers = {weight.name: layer_of(weight) for weight in select(load(path))[0]}
    x = normal(7, 3, 32, seed=2)
    (y,) = ort.InferenceSession(path).run(None, {"x": x})
    random = np.random.default_rng(0)
    inputs, states = layers["w"], layers["r"]
    assert inputs is not None
    assert states is not None
    columns = patches(inputs, x, 100, random)
    assert np.array_equal(columns, x.reshape(-1, 32).T[None])
    columns = patches(states, y, 100, random)
    for number in range(y.shape[1]):
        assert np.array_equal(columns[number], y[:, number].reshape(-1, 24).T)
    for layer in (inputs, states):
        values = normal(*layer.shape)
        assert np.array_equal(layer.weight(layer.matrix(values)), values)


def test_states_that_no_output_has(build: Build) -> None:
    path = recurrent(build, "GRU", 3, "")
    model = load(path)
    (node,) = model.graph
    node.outputs[0].name = ""
    layers = {weight.name: layer_of(weight) for weight in select(model)[0]}
    assert layers["w"] is not None
    assert layers["r"] is None


@pytest.mark.parametrize("name", ["LSTM", "both directions", "transposed", "tied"])
def test_error_feedback_makes_the_output_better(build: Build, tmp_path: Path, name: str) -> None:
    """With inputs of few directions; the same model without calibration is the reference."""
    low_rank = normal(600, 6, seed=3) @ normal(6, 32, seed=4)
    if name == "transposed":
        text = (
            HEAD
            + """m (float[N,32,5] x) => (float[N,24,M] y) {
          y = ConvTranspose<strides = [2]>(x, w) }"""
        )
        path = build(text, {"w": normal(32, 24, 4)})
        feeds = [{"x": low_rank.reshape(120, 5, 32).transpose(0, 2, 1).copy()}]
    elif name == "tied":
        text = (
            HEAD
            + """m (int64[N] i, float[N,32] x) => (float[N,32] e, float[N,300] y) {
          e = Gather(w, i)  t = Transpose(w)  y = MatMul(x, t) }"""
        )
        path = build(text, {"w": normal(300, 32)})
        feeds = [{"x": low_rank[n::2].copy(), "i": np.arange(300)} for n in range(2)]
    else:
        path = recurrent(build, *RECURRENT[name])
        feeds = [{"x": low_rank[n::4].reshape(10, 15, 32).copy()} for n in range(4)]
    calibrated = compress(path, options=Options(levels=5), calibration=Calibration(feeds))
    assert {weight.method for weight in calibrated.weights} == {"kmeans+feedback"}
    reference = tmp_path / "kmeans.onnx"
    plain = compress(path, reference, Options(levels=5))
    error = max(q.relative_error for q in calibrated.quality.outputs if q.name == "y")
    outputs = [ort.InferenceSession(m).run(["y"], feeds[0])[0] for m in (path, reference)]
    expected = np.linalg.norm(outputs[1] - outputs[0]) / np.linalg.norm(outputs[0])
    assert len(plain.weights) == len(calibrated.weights)
    assert error < expected


def test_inspect_says_where_there_was_no_feedback(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        HEAD
        + """m (int64[N] i) => (float[N,M] y) {
      e = Gather(table, i)  a = MatMul(e, w)  y = If(yes) <
        then_branch = t () => (float[N,M] p) { p = MatMul(a, v) },
        else_branch = o () => (float[N,M] q) { q = Identity(a) }> }"""
    )
    arrays = {"table": normal(99, 40), "w": normal(40, 40) / 6, "v": normal(40, 40, seed=1) / 40}
    path, small = build(text, arrays | {"yes": np.array(True)}), tmp_path / "o.onnx"
    compress(path, small, Options(levels=5), calibration=Calibration())
    unobserved = inspect(small).unobserved
    assert unobserved == {
        "table": "used by Gather in a way that is not observed",
        "v": "used in a subgraph or function",
    }
    inspection_summary(inspect(small), Console(width=200))
    (line,) = (t for t in capsys.readouterr().out.splitlines() if "error feedback" in t)
    assert line.startswith("without error feedback: 2 weights: 1 × used ")
    compress(path, small, Options(method="kmeans", levels=5))
    assert inspect(small).unobserved == {}

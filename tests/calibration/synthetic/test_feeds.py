"""Synthetic inputs fit each other and the operators that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from building import Build, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qqonnx.calibration.inputs import CalibrationInputs, calibration_inputs
from qqonnx.calibration.synthetic.axes import input_shapes
from qqonnx.calibration.synthetic.generators import log_spectrogram, speech_like
from qqonnx.calibration.synthetic.kinds import input_kind
from qqonnx.model.load import load

if TYPE_CHECKING:
    from pathlib import Path

HEAD = '<ir_version: 8, opset_import: ["": 17]> m '


def made(path: Path, count: int = 16) -> CalibrationInputs:
    """Return inputs, after a run of the model on each."""
    inputs = calibration_inputs(load(path), None, count)
    session = ort.InferenceSession(path)
    for feed in inputs.batches():
        session.run(None, feed)
    return inputs


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["n", "t", "u", "", 0, -1, 3, 5]), max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_axes_of_the_same_name_have_the_same_size(dims: list[list[Any]]) -> None:
    import onnx_ir as ir

    values = [
        ir.Value(name=f"x{i}", shape=ir.Shape([d if d != "" else None for d in shape]))
        for i, shape in enumerate(dims)
    ]
    shapes = input_shapes(values, 8, 32)
    sizes: dict[str, set[int]] = {}
    for number, shape in enumerate(dims):
        made_shape = shapes[f"x{number}"]
        assert len(made_shape) == len(shape)
        for dim, size in zip(shape, made_shape, strict=True):
            if isinstance(dim, int) and dim > 0:
                assert size == dim
            else:
                assert size in (8, 32)
            if isinstance(dim, str) and dim:
                sizes.setdefault(dim, set()).add(size)
    assert all(len(entry) == 1 for entry in sizes.values())


def recurrent(path: Path, dims: list[Any]) -> Path:
    """Write a model of waveforms, with a sample rate and a state [1, samples, 8]."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["u"]),
        helper.make_node("Conv", ["u", "w"], ["c"], strides=[64]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["t", "i", "r", "", "", "h", "h"], ["", "y"], hidden_size=8),
        helper.make_node("Equal", ["sr", "rate"], ["known"]),
        helper.make_node("Cast", ["known"], ["k"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["y", "k"], ["z"]),
    ]
    constants = {
        "one": np.array([1]),
        "rate": np.array(16000),
        "w": normal(16, 1, 128),
        "i": normal(1, 32, 16),
        "r": normal(1, 32, 8),
    }
    from onnx import numpy_helper, save

    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    value = helper.make_tensor_value_info
    inputs = [
        value("x", TensorProto.FLOAT, dims[:2]),
        value("h", TensorProto.FLOAT, [1, dims[2], 8]),
        value("sr", TensorProto.INT64, []),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [value("z", TensorProto.FLOAT, None)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, path)
    return path


@pytest.mark.parametrize("dims", [["b", "samples", "b"], [1, 512, 1], [1, None, None]])
def test_sounds_states_and_sample_rates(tmp_path: Path, dims: list[Any]) -> None:
    inputs = made(recurrent(tmp_path / "m.onnx", dims))
    for feed in inputs.batches():
        assert feed["sr"] == 16000
        assert feed["h"].shape[1] == len(feed["x"])
        assert feed["x"].shape[1] >= 128
        assert 0 < np.abs(feed["x"]).max() <= 1
    # Sounds are no white noise: a value is like the one before.
    sounds = np.concatenate([feed["x"].ravel() for feed in inputs.batches()])
    assert np.corrcoef(sounds[1:], sounds[:-1])[0, 1] > 0.3
    assert inputs.count == 16


def test_a_model_of_single_samples_gets_them(build: Build) -> None:
    text = f"""{HEAD} (int64[batch,t] ids) => (float[1,u,16] y) {{
      e = Gather(table, ids)  y = Reshape(e, shape) }}"""
    path = build(text, {"table": normal(50, 16), "shape": np.array([1, -1, 16])})
    assert {feed["ids"].shape for feed in made(path).batches()} == {(8, 32)}
    text = f"""{HEAD} (int64[batch,t] ids, float[batch,t,16] more) => (float[1,u,16] y) {{
      e = Gather(table, ids)  r = Reshape(e, shape)  y = Concat<axis = 1>(r, more) }}"""
    path = build(text, {"table": normal(50, 16), "shape": np.array([1, -1, 16])})
    inputs = made(path)
    assert {feed["ids"].shape for feed in inputs.batches()} == {(1, 32)}
    assert inputs.count == len(list(inputs.batches())) == 16


@pytest.mark.parametrize(
    ("lookup", "dims"),
    [
        ("c = Cast<to = 7>(ids)  u = Unsqueeze(c, one)  y = Gather(table, u)", "b,k,t,16"),
        ("l = Gather<axis = 1>(ids, one)  y = Gather(table, l)", "b,k,16"),
    ],
)
def test_indices_stay_in_the_table_they_reach_through_other_nodes(
    build: Build, lookup: str, dims: str
) -> None:
    text = f"{HEAD} (int32[b,t] ids) => (float[{dims}] y) {{ {lookup} }}"
    path = build(text, {"table": normal(50, 16), "one": np.array([1])})
    ids = np.concatenate([feed["ids"] for feed in made(path).batches()])
    assert ids.max() < 50
    assert len(np.unique(ids)) > 40


def test_indices_of_nodes_and_one_hot_classes(build: Build) -> None:
    text = f"""{HEAD} (float[nodes,16] x, int64[2,edges] edge, int32[nodes] kind)
      => (float[nodes,16] y) {{
      s = Gather(edge, zero)  m = Gather(x, s)  a = ReduceSum<keepdims = 1>(m)
      k = Unsqueeze(kind, one)  e = Equal(k, classes)  h = Cast<to = 1>(e)  w = MatMul(h, table)
      z = Add(x, w)  y = Add(z, a) }}"""
    constants = {
        "zero": np.array(0),
        "one": np.array([1]),
        "classes": np.arange(30, dtype=np.int32)[None],
        "table": normal(30, 16),
    }
    kinds = set()
    for feed in made(build(text, constants), 64).batches():
        assert len(np.unique(feed["edge"])) > 2
        kinds.update(feed["kind"].tolist())
    assert len(kinds) > 15
    assert max(kinds) == 29


@pytest.mark.parametrize(
    ("dims", "time", "frequency"),
    [("n,76,32,1", 1, 2), ("n,1,t,64", 2, 3), ("n,80,t", 2, 1), ("n,t,257", 1, 2)],
)
def test_spectrograms_are_smooth_in_time(
    build: Build, dims: str, time: int, frequency: int
) -> None:
    text = f"{HEAD} (float[{dims}] x) => (float[{dims}] y) {{ y = Relu(x) }}"
    for feed in made(build(text, {})).batches():
        frames = np.moveaxis(feed["x"], (time, frequency), (0, 1))
        assert abs(float(frames.mean())) < 0.1
        assert float(frames.std()) == pytest.approx(1, abs=0.1)
        assert np.corrcoef(frames[1:].ravel(), frames[:-1].ravel())[0, 1] > 0.6


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("float[1,3,64,64] frame", "image"),
        ("float[n,1,48,w] x", "image"),
        ("float[n,h,w,3] x", "image"),
        ("float[n,3,frames,160] x", "spectrogram"),
        ("float[n,1,80,t] mel", "spectrogram"),
        ("float[n,76,32,1] x", "spectrogram"),
        ("float[n,t] audio", "waveform"),
        ("float[n,1,44100] x", "waveform"),
        ("float[2,n,64] h", "state"),
        ("float[n,64] x", "values"),
        ("float[n,8,16,16] x", "values"),
    ],
)
def test_kinds(build: Build, declared: str, kind: str) -> None:
    text = (
        f"{HEAD} ({declared}) => (float y) {{ y = ReduceSum<keepdims = 0>({declared.split()[1]}) }}"
    )
    (value,) = load(build(text, {})).graph.inputs
    assert input_kind(value) == kind


def test_the_range_of_a_spectrogram_is_that_of_the_first_normalization(build: Build) -> None:
    text = f"""{HEAD} (float[n,80,t] mel) => (float[n,80,t] y) {{
      c = Sub(mel, mean)  y = Div(c, std) }}"""
    path = build(text, {"mean": np.float32(-5), "std": np.float32(4)})
    values = np.concatenate([feed["mel"] for feed in made(path).batches()])
    assert float(values.mean()) == pytest.approx(-5, abs=0.4)
    assert float(values.std()) == pytest.approx(4, rel=0.1)


def test_generators_give_what_is_asked_for_and_vary() -> None:
    first, second = (speech_like(5000, np.random.default_rng(seed)) for seed in (0, 1))
    assert first.shape == (5000,)
    assert np.abs(first).max() <= 1
    assert not np.array_equal(first, second)
    assert np.array_equal(first, speech_like(5000, np.random.default_rng(0)))
    assert log_spectrogram(70, 40, np.random.default_rng(0)).shape == (70, 40)

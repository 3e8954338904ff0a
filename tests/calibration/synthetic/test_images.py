"""Synthetic photographs are in the range that the graph expects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from building import Build, normal

from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.calibration.synthetic.generators import dead_leaves
from qqonnx.model.load import load

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
RANGES = {
    "standardized": (1 / STD, MEAN / STD),
    "0 to 1": (1.0, 0.0),
    "-1 to 1": (2.0, 1.0),
    "0 to 255": (255.0, 0.0),
    "0 to 255 without the mean": (255.0, 255 * MEAN),
}
"""Factor and offset of the ranges in which models take photographs with values in 0 to 1."""


def photographs(name: str) -> np.ndarray[Any, Any]:
    """Return photographs of another seed than calibration's in a range: [n, 3, h, w]."""
    random = np.random.default_rng(5)
    images = np.stack([dead_leaves(48, 48, 3, random) for _ in range(8)])
    factor, offset = (np.broadcast_to(x, 3).reshape(3, 1, 1) for x in RANGES[name])
    return images * factor - offset


def statistics(images: np.ndarray[Any, Any], filters: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Return mean and standard deviation of the outputs of filters [n, c, 3, 3]."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))
    outputs = np.einsum("nchwij,ocij->nohw", windows, filters)
    return outputs.mean(axis=(0, 2, 3)), outputs.std(axis=(0, 2, 3))


def given(build: Build, graph: str, constants: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the input that calibration makes for a graph."""
    inputs = calibration_inputs(load(build(graph, constants)), None, 16)
    return np.concatenate([feed["x"] for feed in inputs.batches()])


def as_floats(arrays: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def assert_range(images: np.ndarray[Any, Any], name: str) -> None:
    expected = photographs(name)
    axes = (0, 2, 3)
    assert np.allclose(images.std(axis=axes), expected.std(axis=axes), rtol=0.3)
    difference = images.mean(axis=axes) - expected.mean(axis=axes)
    assert (np.abs(difference) < 0.5 * expected.std(axis=axes)).all()


HEAD = '<ir_version: 8, opset_import: ["": 17]> m (float[n,3,64,64] x) => (float[n,16,h,w] y)'


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("folded", [True, False])
def test_the_first_convolution_tells_the_range(build: Build, name: str, folded: bool) -> None:
    """A trained layer turns the inputs it knows into values of about mean 0 and variance 1."""
    filters = normal(16, 3, 3, 3)
    mean, std = statistics(photographs(name), filters)
    if folded:
        graph = f"{HEAD} {{ i = Identity(x)  y = Conv(i, w, b) }}"
        constants = {"w": filters / std.reshape(-1, 1, 1, 1), "b": -mean / std}
    else:
        graph = f"{HEAD} {{ c = Conv(x, w)  y = BatchNormalization(c, g, b, m, v) }}"
        constants = {"w": filters, "g": normal(16), "b": normal(16), "m": mean, "v": std**2}
    assert_range(given(build, graph, as_floats(constants)), name)


@pytest.mark.parametrize("name", ["0 to 1", "0 to 255"])
def test_so_does_a_convolution_behind_space_to_depth(build: Build, name: str) -> None:
    filters = normal(16, 12, 3, 3)
    images = photographs(name)
    blocks = np.concatenate([images[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=1)
    mean, std = statistics(blocks, filters)
    graph = f"{HEAD} {{ s = SpaceToDepth<blocksize = 2>(x)  y = Conv(s, w, b) }}"
    constants = {"w": filters / std.reshape(-1, 1, 1, 1), "b": -mean / std}
    assert_range(given(build, graph, as_floats(constants)), name)


ARITHMETIC = {
    "c = Sub(x, half)  y = Div(c, half)": "0 to 255",
    "y = Mul(x, small)": "0 to 255",
    "c = Div(x, large)  d = Sub(c, mean)  y = Div(d, std)": "0 to 255",
    "c = Sub(x, mean)  y = Div(c, std)": "0 to 1",
    "i = Identity(x)  c = Mul(i, two)  y = Add(c, minus)": "0 to 1",
}


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_the_first_arithmetic_tells_the_range(build: Build, arithmetic: str) -> None:
    graph = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[n,3,32,32] x) => (float[n,3,32,32] y) {{ {arithmetic} }}"""
    column = (3, 1, 1)
    constants = {
        "half": np.float32(127.5),
        "small": np.float32(1 / 255),
        "large": np.float32(255),
        "mean": MEAN.astype(np.float32).reshape(column),
        "std": STD.astype(np.float32).reshape(column),
        "two": np.float32(2),
        "minus": np.float32(-1),
    }
    assert_range(given(build, graph, constants), ARITHMETIC[arithmetic])


def test_a_batch_normalization_at_the_input_gives_its_statistics(build: Build) -> None:
    graph = """<ir_version: 8, opset_import: ["": 17]>
    m (float[n,3,64,64] x) => (float[n,3,64,64] y) { y = BatchNormalization(x, g, b, m, v) }"""
    mean, std = np.array([10.0, -4, 90]), np.array([3.0, 1, 40])
    constants = {"g": normal(3), "b": normal(3), "m": mean, "v": std**2}
    images = given(build, graph, as_floats(constants))
    assert np.allclose(images.std(axis=(0, 2, 3)), std, rtol=0.3)
    assert (np.abs(images.mean(axis=(0, 2, 3)) - mean) < 0.4 * std).all()


@pytest.mark.parametrize("dims", ["n,3,20,50", "n,20,50,3", "2,1,48,160", "n,1,c,48"])
def test_images_have_the_shape_of_the_input(build: Build, dims: str) -> None:
    graph = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[{dims}] x) => (float[{dims}] y) {{ y = Relu(x) }}"""
    inputs = calibration_inputs(load(build(graph, {})), None, 16)
    for feed in inputs.batches():
        for size, dim in zip(feed["x"].shape, dims.split(","), strict=True):
            assert not dim.isdigit() or size == int(dim)
    assert inputs.count == 16

"""Moments in bounded memory, without padding, and the loss of chosen outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from building import Build, normal

from qqonnx import Options, compress
from qqonnx.calibration import passes
from qqonnx.calibration.passes import moment_groups
from qqonnx.config import Calibration, Target
from qqonnx.errors import QqonnxError
from qqonnx.inputs.masks import padding_mask, unpadded

if TYPE_CHECKING:
    from pathlib import Path

ENCODER = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[b,t,24] x, int64[b,t] attention_mask) => (float[b,t,40] y)
{
    q = MatMul(x, wq)  k = MatMul(x, wk)  s = Add(q, k)  r = Relu(s)
    h = MatMul(r, w1)  g = Relu(h)  y = MatMul(g, w2)
}
"""
WEIGHTS = {"wq": (24, 48), "wk": (24, 48), "w1": (48, 64), "w2": (64, 40)}
OPTIONS = Options(min_size=64)


@pytest.fixture
def encoder(build: Build) -> Path:
    return build(ENCODER, {n: normal(*s, seed=i) / 5 for i, (n, s) in enumerate(WEIGHTS.items())})


def feeds(padding: float) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    found = []
    for run in range(12):
        x = random.standard_normal((2, 10, 24)).astype(np.float32)
        mask = np.ones((2, 10), np.int64)
        mask[:, 4 + run % 6 :] = 0
        x[mask == 0] = padding
        found.append({"x": x, "attention_mask": mask})
    return found


def test_padding_changes_nothing(encoder: Path, tmp_path: Path) -> None:
    for name, padding in (("a", 0.0), ("b", 100.0)):
        calibration = Calibration(feeds(padding), target=Target(size=7000))
        compress(encoder, tmp_path / f"{name}.onnx", OPTIONS, calibration=calibration)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_groups_of_layers_give_the_same_file(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration(feeds(0), target=Target(size=7000))
    compress(encoder, tmp_path / "a.onnx", OPTIONS, calibration=calibration)
    monkeypatch.setattr(passes.moment_groups, "__defaults__", (1,))
    compress(encoder, tmp_path / "b.onnx", OPTIONS, calibration=calibration, threads=3)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_layers_of_the_same_input_share_their_moments(encoder: Path) -> None:
    from qqonnx.calibration.layers import layer_of
    from qqonnx.model.load import load
    from qqonnx.model.select import select

    weights = select(load(encoder))[0]
    layers = [layer for layer in map(layer_of, weights) if layer is not None]
    assert len(layers) == 4
    first = 8 * 24**2
    assert [len(group) for group in moment_groups(layers, first)] == [2, 1, 1]
    assert [len(group) for group in moment_groups(layers, 8 * (24**2 + 48**2))] == [3, 1]
    assert [len(group) for group in moment_groups(layers)] == [4]


def test_masks_of_ones_and_other_shapes_mask_nothing() -> None:
    ones, mask = np.ones((2, 3)), np.array([[1, 1, 0], [1, 0, 0]])
    assert padding_mask({"attention_mask": ones}) is None
    assert padding_mask({"x": mask}) is None
    assert padding_mask({"mask": np.ones((2, 3, 4))}) is None
    found = padding_mask({"attention_mask": mask})
    assert found is not None
    assert found.tolist() == mask.astype(bool).tolist()
    values = normal(2, 3, 5)
    assert unpadded(values, found).shape == (3, 1, 5)
    assert unpadded(values[:, :2], found).shape == (2, 2, 5)


TWO = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[b,24] x) => (float[b,4,6] left, float[b,4,6] right)
{
    a = MatMul(x, wa)  b = MatMul(x, wb)
    left = Reshape(a, shape)  right = Reshape(b, shape)
}
"""


def test_an_output_that_is_left_out_gets_the_fewest_levels(build: Build, tmp_path: Path) -> None:
    arrays = {"wa": normal(24, 24, seed=1), "wb": normal(24, 24, seed=2)}
    model = build(TWO, {**arrays, "shape": np.array([0, 4, 6])})
    x = [{"x": normal(8, 24, seed=seed)} for seed in range(12)]
    for left_out, kept in (("wa", "wb"), ("wb", "wa")):
        loss = {{"wa": "left", "wb": "right"}[left_out]: 0.0}
        calibration = Calibration(x, target=Target(size=2300), loss=loss)
        report = compress(model, tmp_path / "o.onnx", OPTIONS, calibration=calibration)
        levels = {weight.name: weight.levels for weight in report.weights}
        assert levels[left_out] == 2 < levels[kept]


@pytest.mark.parametrize(
    ("loss", "message"),
    [({"no": 1.0}, "no output is named 'no'"), ({"left": 0.0, "right": 0.0}, "every output")],
)
def test_bad_losses(build: Build, tmp_path: Path, loss: dict[str, float], message: str) -> None:
    arrays = {"wa": normal(24, 24, seed=1), "wb": normal(24, 24, seed=2)}
    model = build(TWO, {**arrays, "shape": np.array([0, 4, 6])})
    calibration = Calibration(None, target=Target(size=1800), loss=loss)
    with pytest.raises(QqonnxError, match=message):
        compress(model, tmp_path / "o.onnx", OPTIONS, calibration=calibration)
    assert not (tmp_path / "o.onnx").exists()

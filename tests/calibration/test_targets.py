"""Calibration to a target: file size, plan file, and impossible targets."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import normal

from qqonnx import Options, compress, inspect, restore
from qqonnx.cli import convert_model
from qqonnx.config import Calibration, Target
from qqonnx.errors import QqonnxError

NET = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[N, 3, 12, 12] x) => (float[N, 5] y)
{
    h1 = Conv<pads=[1, 1, 1, 1]>(x, stem, b1)
    r1 = Relu(h1)
    h2 = Conv<group=32, pads=[1, 1, 1, 1]>(r1, depthwise)
    r2 = Relu(h2)
    h3 = Conv(r2, point, b3)
    r3 = Relu(h3)
    p = GlobalAveragePool(r3)
    f = Flatten(p)
    y = Gemm<transB=1>(f, fc, b4)
}
"""


@pytest.fixture
def net(build, samples):
    # Channels of very different size, as after folded batch normalization.
    spread = np.exp(normal(64, seed=9)).astype(np.float32)
    arrays = {
        "stem": normal(32, 3, 5, 5, seed=1) * spread[:32, None, None, None],
        "depthwise": normal(32, 1, 6, 6, seed=2) / 6,
        "point": normal(64, 32, 1, 1, seed=3) * spread[:, None, None, None],
        "fc": normal(5, 64, seed=4) / 8,
        "b1": normal(32, seed=5),
        "b3": normal(64, seed=6),
        "b4": normal(5, seed=7),
    }
    arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
    mean = outputs(build(NET, arrays), np.load(samples)).mean(axis=0)
    # All classes occur.
    return build(NET, {**arrays, "b4": arrays["b4"] - mean})


@pytest.fixture
def samples(tmp_path):
    random = np.random.default_rng(0)
    x = random.standard_normal((64, 3, 12, 12)).astype(np.float32)
    shifted = np.maximum(x + random.standard_normal((64, 3, 1, 1)), 0)
    np.save(tmp_path / "x.npy", shifted.astype(np.float32))
    return tmp_path / "x.npy"


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


OPTIONS = Options(min_size=64)


@pytest.mark.parametrize("target", [Target(size=9000), Target(bits=14.0), Target(ratio=2.5)])
def test_the_file_is_no_larger_than_the_target(net, samples, tmp_path, target):
    out = tmp_path / "o.onnx"
    report = compress(net, out, OPTIONS, calibration=Calibration(samples, target=target))
    wanted = {
        "size": target.size,
        "bits": 14 * (32 * 75 + 32 * 36 + 64 * 32 + 5 * 64) / 8,
        "ratio": net.stat().st_size / 2.5,
    }
    limit = next(wanted[key] for key, value in vars(target).items() if value is not None)
    assert out.stat().st_size == report.bytes_after <= limit
    # A storage layout that no other weight has takes some 500 bytes of nodes.
    assert report.bytes_after > 0.9 * limit
    assert report.calibration == "64 samples of x.npy"


def test_more_bytes_are_never_much_worse_and_calibration_pays(net, samples, tmp_path):
    x = np.load(samples)[::3]
    expected = outputs(net, x)
    errors = []
    for size in (8200, 9500, 12000):
        calibration = Calibration(samples, target=Target(size=size))
        compress(net, tmp_path / "o.onnx", OPTIONS, calibration=calibration)
        errors.append(float(np.square(outputs(tmp_path / "o.onnx", x) - expected).mean()))
    assert errors[0] > errors[1] > errors[2]
    plain = compress(net, tmp_path / "p.onnx", Options(min_size=64, bits=3, granularity="scale"))
    calibration = Calibration(samples, target=Target(size=plain.bytes_after))
    compress(net, tmp_path / "o.onnx", OPTIONS, calibration=calibration)
    with_plain = float(np.square(outputs(tmp_path / "p.onnx", x) - expected).mean())
    with_target = float(np.square(outputs(tmp_path / "o.onnx", x) - expected).mean())
    assert with_target < 0.5 * with_plain


def test_the_plan_can_be_read_edited_and_used_again(net, samples, tmp_path):
    plan = tmp_path / "plan.json"
    calibration = Calibration(samples, target=Target(size=9500), plan=plan)
    compress(net, tmp_path / "a.onnx", OPTIONS, calibration=calibration)
    again = Calibration(samples, plan=plan)
    compress(net, tmp_path / "b.onnx", OPTIONS, calibration=again)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    content = json.loads(plan.read_text())
    content["weights"]["fc"].update(levels=7)
    plan.write_text(json.dumps(content))
    compress(net, tmp_path / "c.onnx", OPTIONS, calibration=again)
    levels = {weight.name: weight.levels for weight in inspect(tmp_path / "c.onnx").weights}
    assert levels["fc"] == 7
    for weights, message in (
        ({}, "has no weight"),
        ({**content["weights"], "no": {}}, "the model has no weight 'no'"),
        ({**content["weights"], "fc": {"levels": 300, "granularity": "scale"}}, "2 to 256"),
        ({**content["weights"], "fc": {"levels": 3, "granularity": "block"}}, "granularity"),
    ):
        plan.write_text(json.dumps({"weights": weights}))
        with pytest.raises(QqonnxError, match=message):
            compress(net, tmp_path / "d.onnx", OPTIONS, calibration=again)
    assert not (tmp_path / "d.onnx").exists()


def test_levels_of_the_options_without_a_target(net, samples, tmp_path):
    options = Options(min_size=64, levels=6, bits_for={"fc": 8})
    report = compress(net, tmp_path / "o.onnx", options, calibration=Calibration(samples))
    levels = {weight.name: weight.levels for weight in report.weights}
    assert levels["fc"] == 256
    assert len(set(levels.values())) > 1
    plain = compress(net, tmp_path / "p.onnx", replace(options, granularity="scale"))
    # A storage layout that no other weight has takes some 500 bytes of nodes.
    assert report.bytes_after < plain.bytes_after + 1500


def test_biases_become_float16_and_come_back(net, samples, tmp_path):
    out, back = tmp_path / "o.onnx", tmp_path / "back.onnx"
    report = compress(net, out, OPTIONS, calibration=Calibration(samples))
    stored = {entry.name: entry.reason for entry in report.skipped}
    assert stored == {"b1": "a bias", "b3": "a bias, stored as float16", "b4": "a bias"}
    plain = {entry.name: entry.reason for entry in inspect(out).plain}
    assert plain["b3"] == "stored as float16"
    restore(out, back)
    found = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(back).graph.initializer}
    bias = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(net).graph.initializer}["b3"]
    assert found["b3"].dtype == np.float32
    assert (found["b3"] == bias.astype(np.float16)).all()


def test_a_maximum_drop(net, samples, tmp_path):
    sizes = []
    for drop in (0.02, 0.3):
        calibration = Calibration(samples, target=Target(max_drop=drop))
        report = compress(net, tmp_path / "o.onnx", OPTIONS, calibration=calibration)
        sizes.append(report.bytes_after)
    assert sizes[1] < sizes[0] < net.stat().st_size


def test_bits_per_weight_of_a_model_with_more_graph_than_weights(build, tmp_path):
    """A tenth of the file may be graph; what is beyond is not taken from the weights."""
    table = normal(30000, seed=3)
    text = """<ir_version: 8, opset_import: ["": 17]> m (float[n,30000] x) => (float[n,80] y) {
      s = Add(x, table)  t = Slice(s, zero, wide, one)  y = MatMul(t, w) }"""
    indices = {"zero": np.array([0]), "wide": np.array([256]), "one": np.array([1])}
    path = build(text, {"w": normal(256, 80), "table": table, **indices})
    kept = table.nbytes
    for bits in (4.4, 8.0):
        out = tmp_path / f"{bits}.onnx"
        calibration = Calibration(target=Target(bits=bits))
        report = compress(path, out, OPTIONS, calibration=calibration)
        (weight,) = report.weights
        assert 0.7 * bits < 8 * weight.bytes_after / (256 * 80) <= bits
        assert kept < report.bytes_after < kept + bits / 8 * 256 * 80 + 1500


def test_without_data(net, tmp_path):
    calibration = Calibration(target=Target(size=9500))
    report = compress(net, tmp_path / "o.onnx", OPTIONS, calibration=calibration)
    assert report.calibration == "synthetic inputs (data-free)"
    assert report.bytes_after <= 9500


def test_impossible_targets(net, samples, tmp_path):
    calibration = Calibration(samples, target=Target(size=1000))
    expected = "^target: too small by about .* bytes: the weights take at least"
    with pytest.raises(QqonnxError, match=expected):
        compress(net, tmp_path / "o.onnx", OPTIONS, calibration=calibration)
    assert not list(tmp_path.glob("o.onnx*"))


def test_the_command(net, samples, tmp_path, capsys, monkeypatch):
    def convert(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["convert-model", *map(str, args)])
        try:
            convert_model()
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    out = tmp_path / "o.onnx"
    usual = (net, "-o", out, "--min-size", 64)
    code, err = convert(*usual, "--target-size", "9.5kB", "--calibration", samples, "--json")
    assert (code, err) == (0, "")
    assert out.stat().st_size <= 9500
    out.unlink()
    for args, message in (
        (("--target-size", "lots"), "--target-size: must be a size such as 2.5MB, not lots"),
        (("--target-size", "9kB", "--target-bits", 3), "the target: is exactly one of"),
        (("--target-bits", 3, "--calibration", tmp_path / "no"), "no such folder or file"),
        (("--calibration", tmp_path), "holds neither images nor .npz files"),
    ):
        code, err = convert(*usual, *args)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1
        assert not out.exists()


def test_arrays_that_do_not_fit(net, tmp_path):
    bad = {
        "rank": np.zeros((4, 3, 12), np.float32),
        "nan": np.full((4, 3, 12, 12), np.nan, np.float32),
        "size": np.zeros((4, 3, 2, 2), np.float32),
    }
    messages = {"rank": "3 dimensions", "nan": "not finite", "size": "does not run"}
    for key, array in bad.items():
        np.save(tmp_path / f"{key}.npy", array)
        with pytest.raises(QqonnxError, match=messages[key]):
            compress(
                net, tmp_path / "o.onnx", OPTIONS, calibration=Calibration(tmp_path / f"{key}.npy")
            )


@pytest.mark.torch
def test_fine_tuning_changes_no_index_and_no_size(net, samples, tmp_path):
    pytest.importorskip("torch")
    x = np.load(samples)
    expected = outputs(net, x)
    errors, sizes, used = [], [], []
    for finetune in (False, True):
        out = tmp_path / "o.onnx"
        options = Options(min_size=64, levels=3)
        calibration = Calibration(samples, finetune=finetune)
        report = compress(net, out, options, calibration=calibration)
        errors.append(float(np.square(outputs(out, x) - expected).mean()))
        sizes.append(sum(weight.bytes_after for weight in report.weights))
        used.append([(weight.name, weight.entropy) for weight in report.weights])
    assert sizes[0] == sizes[1]
    assert used[0] == used[1]
    # Fine-tuning that does not pay is undone, but for rounding.
    assert errors[1] <= errors[0] * (1 + 1e-4)

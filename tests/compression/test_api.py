"""The public functions: paths of any kind, models in memory, and options that have no effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from building import Build, normal

from qqonnx import (
    Calibration,
    OptionError,
    Options,
    QqonnxError,
    Target,
    compress,
    evaluate,
    inspect,
    restore,
    verify,
)

MATMUL = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,64] x) => (float[N,M] y) { v = MatMul(x, w)  y = MatMul(v, u) }"""


@pytest.fixture
def model(build: Build) -> Path:
    return build(MATMUL, {"w": normal(64, 96), "u": normal(96, 80, seed=1)})


def test_a_string_is_a_path(model: Path, tmp_path: Path) -> None:
    compress(model, tmp_path / "path.onnx", Options(bits=4))
    report = compress(str(model), str(tmp_path / "string.onnx"), Options(bits=4))
    assert report.path == tmp_path / "string.onnx"
    assert report.path.read_bytes() == (tmp_path / "path.onnx").read_bytes()
    assert restore(str(report.path), str(tmp_path / "plain.onnx")) == 2
    assert len(inspect(str(report.path)).weights) == 2
    assert verify(str(report.path), str(tmp_path / "plain.onnx")).equal


@pytest.mark.parametrize("load", [onnx.load, ir.load], ids=["ModelProto", "ir.Model"])
def test_models_in_memory(model: Path, tmp_path: Path, load: object) -> None:
    """They give what their files give, and stay as they are."""
    compress(model, tmp_path / "small.onnx", Options(bits=4))
    given = load(model)
    before = (given if load is onnx.load else ir.to_proto(given)).SerializeToString()
    report = compress(given, options=Options(bits=4))
    assert report.path is None
    assert report.model == onnx.load(tmp_path / "small.onnx")
    assert report.bytes_after == (tmp_path / "small.onnx").stat().st_size
    assert "model" not in report.to_dict()
    calibrated = compress(given, calibration=Calibration(target=Target(bits=9)))
    assert len(inspect(calibrated.model).weights) == 2
    assert restore(report.model, tmp_path / "plain.onnx") == 2
    assert verify(report.model, tmp_path / "plain.onnx").equal
    assert not verify(given, report.model).weights.equal
    assert (given if load is onnx.load else ir.to_proto(given)).SerializeToString() == before


def test_errors_do_not_name_temporary_files(model: Path) -> None:
    report = compress(onnx.load(model), options=Options(bits=4))
    with pytest.raises(QqonnxError, match="^the model: compressed already"):
        compress(report.model)


def test_external_data_of_a_model_in_memory(model: Path, tmp_path: Path) -> None:
    external = tmp_path / "external.onnx"
    onnx.save(onnx.load(model), external, save_as_external_data=True, size_threshold=0)
    with pytest.raises(QqonnxError, match="refers to external data"):
        compress(onnx.load(external, load_external_data=False))
    # An onnx_ir model knows the folder.
    expected = compress(model, options=Options(bits=4)).model
    assert compress(ir.load(external), options=Options(bits=4)).model == expected


@pytest.mark.parametrize("nothing", [None, 3, b"model"])
def test_what_is_no_model(nothing: object) -> None:
    with pytest.raises(OptionError, match="^model: must be a path or an ONNX model"):
        inspect(nothing)


@pytest.mark.parametrize("load", [str, onnx.load, ir.load], ids=["str", "ModelProto", "ir.Model"])
def test_evaluation_takes_models_in_memory(
    digits_model: Path, digits_data: Path, load: object
) -> None:
    given = load(digits_model)
    small = compress(given, options=Options(bits=6)).model
    expected = evaluate(digits_model, str(digits_data), limit=40).rows[0]
    alone = evaluate(given, digits_data, limit=40).rows[0]
    assert (alone.top1, alone.bytes) == (expected.top1, expected.bytes)
    base, row = evaluate([given, small], digits_data, baseline=given, limit=40).rows
    assert (base.agreement, base.top1) == (1, expected.top1)
    assert row.bytes < base.bytes / 4
    assert row.agreement > 0.9


CALIBRATED = Calibration(target=Target(bits=4))


@pytest.mark.parametrize(
    ("options", "calibration", "field"),
    [
        (Options(method="qq"), CALIBRATED, "method"),
        (Options(granularity="scale"), CALIBRATED, "granularity"),
        (Options(bits=4), CALIBRATED, "bits"),
        (Options(levels=6), Calibration(plan="plan.json"), "levels"),
        (Options(bits_for={"w": 3}), CALIBRATED, "bits_for"),
        (Options(operators="matmulnbits"), CALIBRATED, "operators"),
        (Options(bits=4, levels=6), None, "bits"),
        (Options(levels=6, operators="matmulnbits"), None, "levels"),
        (Options(granularity="row"), None, "granularity"),
        (Options(operators="coreml"), None, "operators"),
        (Options(levels=1), None, "levels"),
        (Options(bits_for={"x": 3}), None, "bits_for"),
    ],
)
def test_options_that_do_not_fit_are_named(
    model: Path, tmp_path: Path, options: Options, calibration: Calibration | None, field: str
) -> None:
    with pytest.raises(OptionError) as raised:
        compress(model, tmp_path / "o.onnx", options, calibration=calibration)
    assert raised.value.field == field
    assert str(raised.value).startswith(f"{field}: ")
    assert not (tmp_path / "o.onnx").exists()


def test_calibration_takes_the_levels_of_the_options(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", normal(40, 64))
    sizes = []
    for options in (Options(levels=5), Options(bits=3), Options()):
        report = compress(model, options=options, calibration=Calibration(tmp_path / "x.npy"))
        plain = compress(model, options=replace(options, granularity="scale"))
        # A storage layout that no other weight has takes some 500 bytes of nodes.
        assert report.bytes_after < plain.bytes_after + 1000
        sizes.append(sum(weight.bytes_after for weight in report.weights))
    assert sizes == sorted(sizes)

"""What simplifying does to a compressed file, and that `inspect` says so."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from qqonnx import Options, compress, inspect


def offline(file: Path, output: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(output)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def onnxsim(file: Path, output: Path) -> None:
    simplify = pytest.importorskip("onnxsim").simplify
    onnx.save(simplify(onnx.load(file))[0], output)


def onnxslim(file: Path, output: Path) -> None:
    slim = pytest.importorskip("onnxslim").slim
    onnx.save(slim(onnx.load(file)), output)


def onnxscript(file: Path, output: Path) -> None:
    optimize = pytest.importorskip("onnxscript.optimizer").optimize
    onnx.save(optimize(onnx.load(file)), output)


@pytest.mark.parametrize("simplify", [offline, onnxsim, onnxslim, onnxscript])
@pytest.mark.parametrize(("bits", "granularity"), [(4, "tensor"), (3, "scale")])
def test_inspect_says_what_is_inflated_again(
    digits_model: Path, tmp_path: Path, simplify, bits: int, granularity: str
) -> None:
    packed, simplified = tmp_path / "packed.onnx", tmp_path / "simplified.onnx"
    options = Options(bits=bits, granularity=granularity, method="uq")
    compress(digits_model, packed, options)
    before = inspect(packed)
    names = {weight.name for weight in before.weights}
    assert before.inflated == ()
    assert before.problem is None
    assert names
    simplify(packed, simplified)
    after = inspect(simplified)
    assert after.version == before.version
    assert "are stored as floats now" in (after.problem or "")
    assert {weight.name for weight in after.weights} | set(after.inflated) == names
    if simplify is onnxscript:
        # It folds small tensors, and leaves the last steps of decoding large ones.
        assert after.inflated
        assert simplified.stat().st_size > 1.2 * packed.stat().st_size
    else:
        assert set(after.inflated) == names
        floats = sum(weight.bytes_before for weight in before.weights)
        rest = sum(entry.nbytes for entry in before.plain)
        assert simplified.stat().st_size == pytest.approx(floats + rest, rel=0.1)


@pytest.mark.parametrize("simplify", [offline, onnxsim, onnxslim, onnxscript])
def test_simplified_first_nothing_is_lost(digits_model: Path, tmp_path: Path, simplify) -> None:
    simplified, packed = tmp_path / "simplified.onnx", tmp_path / "packed.onnx"
    simplify(digits_model, simplified)
    report = compress(simplified, packed, Options(bits=4, method="uq"))
    assert report.outputs.equal
    assert report.bytes_after < report.bytes_before / 6
    assert inspect(packed).inflated == ()

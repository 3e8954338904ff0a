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


@pytest.mark.parametrize("simplify", [offline, onnxsim, onnxslim])
def test_inspect_says_what_is_inflated_again(digits_model: Path, tmp_path: Path, simplify) -> None:
    packed, simplified = tmp_path / "packed.onnx", tmp_path / "simplified.onnx"
    compress(digits_model, packed, Options(bits=4))
    before = inspect(packed)
    assert before.inflated == ()
    simplify(packed, simplified)
    if "qqonnx" not in {entry.key for entry in onnx.load(simplified).metadata_props}:
        # Whoever drops the record leaves nothing that could be told apart from a float model.
        assert inspect(simplified).version is None
        return
    after = inspect(simplified)
    names = {weight.name for weight in before.weights}
    assert {weight.name for weight in after.weights} | set(after.inflated) == names
    grown = simplified.stat().st_size > 2 * packed.stat().st_size
    assert grown == (len(after.inflated) > len(names) / 2)

"""ONNX's own backend test models: compressed without loss they still give the published outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from qqonnx.config import Options, plan_weights
from qqonnx.encoding.encode import encode
from qqonnx.encoding.read import read as read_stored
from qqonnx.encoding.rewrite import rewrite
from qqonnx.model.load import load, read
from qqonnx.model.save import write
from qqonnx.model.select import select

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
OPERATORS = ("Conv", "ConvTranspose", "Einsum", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN")

Arrays = dict[str, np.ndarray]


def compressed(proto: onnx.ModelProto, folder: Path, bits: int) -> tuple[Path, list[str], bool]:
    """Compress a model whatever it saves; return the file, its weights, whether all are kept."""
    onnx.save(proto, folder / "model.onnx")
    model = load(folder / "model.onnx")
    weights, _ = select(model, include_bias=True)
    plans, _ = plan_weights(weights, Options(method="kmeans", bits=bits, min_size=2))
    quantized = [encode(entry) for entry in plans]
    lossless = all(weight.error.l2 == 0 for weight in quantized)
    if quantized:
        rewrite(model, quantized)
    path = folder / "compressed.onnx"
    write(model, path)
    if quantized:
        written = read_stored(read(path))
        assert {weight.name: weight.digest() for weight in written} == {
            weight.name: weight.digest() for weight in quantized
        }
    return path, [weight.name for weight in quantized], lossless


def run(path: Path, inputs: Arrays) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(path, options).run(None, inputs)


@cache
def node_cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model_tests(kind="node")


def with_constant_weights(case: Any) -> Iterator[tuple[onnx.ModelProto, str]]:
    """Yield the case's model with one of its float inputs after the other made an initializer."""
    inputs, _ = case.data_sets[0]
    for number, (entry, value) in enumerate(zip(case.model.graph.input, inputs, strict=False)):
        if entry.type.tensor_type.elem_type in FLOATS and isinstance(value, np.ndarray):
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            del model.graph.input[number]
            model.graph.initializer.append(numpy_helper.from_array(value, entry.name))
            yield model, entry.name


@pytest.mark.parametrize("operator", OPERATORS)
def test_node_models(operator: str, tmp_path: Path) -> None:
    """Up to 256 distinct weights are kept by 8 bits, so outputs are those that ONNX publishes."""
    checked = 0
    for case in node_cases():
        if not any(node.op_type == operator for node in case.model.graph.node):
            continue
        for model, name in with_constant_weights(case):
            path, weights, lossless = compressed(model, tmp_path, bits=8)
            if name not in weights:
                continue
            arrays = dict(
                zip([i.name for i in case.model.graph.input], case.data_sets[0][0], strict=True)
            )
            del arrays[name]
            try:
                published = run(tmp_path / "model.onnx", arrays)
            except Exception:
                continue  # ONNX Runtime has no kernel for it, with plain floats either
            assert lossless, (case.name, name)
            for mine, theirs in zip(run(path, arrays), published, strict=True):
                np.testing.assert_allclose(
                    mine, theirs, rtol=1e-4, atol=1e-5, err_msg=f"{case.name}: {name}"
                )
            for mine, theirs in zip(run(path, arrays), case.data_sets[0][1], strict=True):
                np.testing.assert_allclose(
                    mine, theirs, rtol=1e-2, atol=1e-3, err_msg=f"{case.name}: {name}"
                )
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", sorted(folder.name for folder in DATA.iterdir()))
@pytest.mark.parametrize("bits", [3, 8])
def test_converted_models(name: str, bits: int, tmp_path: Path) -> None:
    """Opset 6, with weights in the file: outputs are published ones, or of the decoded weights."""
    proto = onnx.load(DATA / name / "model.onnx")
    data = DATA / name / "test_data_set_0"
    inputs, outputs = (
        [
            numpy_helper.to_array(onnx.load_tensor(str(data / f"{kind}_{number}.pb")))
            for number in range(len(list(data.glob(f"{kind}_*.pb"))))
        ]
        for kind in ("input", "output")
    )
    initializers = {tensor.name for tensor in proto.graph.initializer}
    names = [entry.name for entry in proto.graph.input if entry.name not in initializers]
    named = dict(zip(names, inputs, strict=True))
    if "PReLU" in name and "multiparam" in name:
        # ONNX Runtime does not know that slopes were once broadcast along the channels.
        with pytest.raises(Exception, match="PRelu"):
            run(DATA / name / "model.onnx", named)
        return
    path, weights, lossless = compressed(proto, tmp_path, bits)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    found = run(path, named)
    if lossless:
        for mine, theirs in zip(found, outputs, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_most_converted_models_hold_weights() -> None:
    found = [select(read(folder / "model.onnx"))[0] for folder in DATA.iterdir()]
    assert sum(bool(weights) for weights in found) > len(found) / 3

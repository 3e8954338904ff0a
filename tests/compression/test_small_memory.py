"""The recipes of docs/deployment.md that keep weights packed in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Options, compress

TEXT = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,16,12,12] x) => (float[N,40] y) {
    c = Conv(x, kernel)
    r = Relu(c)
    f = Flatten(r)
    h = MatMul(f, large)
    y = Gemm(h, small)
}"""
RELEASE = tuple(map(int, ort.__version__.split(".")[:2]))


@pytest.fixture
def model(build: Build) -> Path:
    arrays = {
        "kernel": normal(64, 16, 3, 3) / np.float32(12),
        "large": normal(6400, 96, seed=1) / np.float32(80),
        "small": normal(96, 40, seed=2),
    }
    return build(TEXT, arrays)


def loaded(
    file: Path, *, cap: int | None = None, unfolded: bool = False
) -> tuple[ort.InferenceSession, dict[str, int]]:
    """Return a session, and the bytes of each initializer of what ONNX Runtime made of the file."""
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file.with_name("optimized.onnx"))
    options.log_severity_level = 4
    if cap is not None:
        key = "optimization.constant_folding_max_output_size_in_bytes"
        options.add_session_config_entry(key, str(cap))
    disabled = ["ConstantFolding"] if unfolded else []
    session = ort.InferenceSession(
        file, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    graph = onnx.load(file.with_name("optimized.onnx")).graph
    return session, {t.name: onnx.numpy_helper.to_array(t).nbytes for t in graph.initializer}


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
@pytest.mark.parametrize("granularity", ["tensor", "scale"])
def test_weights_stay_packed(model: Path, tmp_path: Path, bits: int, granularity: str) -> None:
    packed = tmp_path / "packed.onnx"
    report = compress(model, packed, Options(bits=bits, granularity=granularity, method="uq"))
    sizes = {weight.name: weight.bytes_before for weight in report.weights}
    inputs = {"x": normal(2, 16, 12, 12, seed=3)}
    session, folded = loaded(packed)
    expected = session.run(None, inputs)[0]
    assert sum(folded.values()) >= sum(sizes.values())

    session, kept = loaded(packed, unfolded=True)
    found = session.run(None, inputs)[0]
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    assert sum(kept.values()) < sum(w.bytes_after for w in report.weights) + 20_000

    if RELEASE < (1, 27):
        pytest.skip("ONNX Runtime caps folding since 1.27")
    session, capped = loaded(packed, cap=65536)
    found = session.run(None, inputs)[0]
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    # The large weight stays packed, the others become floats.
    assert sizes["large"] > 2_000_000
    assert sum(capped.values()) < sum(sizes.values()) - 0.7 * sizes["large"]
    assert sizes["small"] in capped.values()


def test_matmulnbits_never_decodes(model: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.onnx"
    report = compress(model, packed, Options(bits=4, operators="matmulnbits"))
    _, kept = loaded(packed)
    blocked = [weight for weight in report.weights if weight.granularity == "block"]
    assert {weight.name for weight in blocked} == {"large", "small"}
    assert max(kept.values()) < blocked[0].bytes_before / 4

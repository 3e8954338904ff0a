"""Baselines of other packages, where they are installed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from building import Build, normal

from qqonnx.config import Options
from qqonnx.sweep.execute import execute
from qqonnx.sweep.grid import Run
from qqonnx.sweep.sources import model_source, source_of

CONVOLUTIONS = """
<ir_version: 8, opset_import: ["" : 18]>
small (float[n, 3, 8, 8] x) => (float[n, 10] y) {
    c = Conv<pads = [1, 1, 1, 1]> (x, kernel)
    r = Relu (c)
    d = Conv<pads = [1, 1, 1, 1]> (r, other)
    p = GlobalAveragePool (d)
    flat = Flatten<axis = 1> (p)
    y = Gemm<transB = 1> (flat, last)
}
"""


@pytest.fixture
def run(build: Build, tmp_path: Path) -> Run:
    arrays = {
        "kernel": normal(64, 3, 3, 3) / 5,
        "other": normal(128, 64, 3, 3, seed=1) / 24,
        "last": normal(10, 128, seed=2) / 11,
    }
    model = build(CONVOLUTIONS, arrays)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=random.integers(0, 10, 20))
    return Run(
        model=model_source(model),
        dataset=source_of(tmp_path / "images.npz", tmp_path),
        samples=None,
        reserved=0,
        method="kmeans",
        bits=4,
        budget=None,
        granularity="tensor",
        calibration=None,
        options=Options(),
        threads=1,
    )


def test_coremltools_clusters_no_better_than_kmeans(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    pytest.importorskip("sklearn")
    ours = execute(run, tmp_path / "ours.onnx")
    theirs = execute(
        replace(run, method="coremltools-kmeans", granularity=None), tmp_path / "theirs.onnx"
    )
    # coremltools runs Lloyd's algorithm from random centers; the other is the optimum.
    assert ours["weight_error"] <= theirs["weight_error"] <= 1.2 * ours["weight_error"]
    assert abs(ours["file_bytes"] - theirs["file_bytes"]) < 100
    names = [[layer["name"] for layer in json.loads(row["layers"])] for row in (ours, theirs)]
    assert names[0] == names[1]


@pytest.mark.parametrize(("method", "most"), [("nncf-int8", 0.02), ("nncf-int4", 0.2)])
def test_nncf_models_run_in_onnx_runtime(
    run: Run, tmp_path: Path, method: str, most: float
) -> None:
    pytest.importorskip("nncf")
    row = execute(
        replace(run, method=method, granularity=None, bits=int(method[-1])), tmp_path / "x.onnx"
    )
    assert 0 < row["weight_error"] < most
    assert row["agreement"] > 0.5
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "x.onnx").graph.initializer}
    assert onnx.TensorProto.UINT8 in types
    assert (onnx.TensorProto.INT4 in types) == (method == "nncf-int4")

"""Releases of ONNX Runtime that read a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from building import normal, tensor_of

from qqonnx import Options, QqonnxError, compress
from qqonnx.model.runtimes import LIMITS


def written(folder: Path, opset: int, ir_version: int) -> Path:
    model = onnx.parser.parse_model(f"""
        <ir_version: {ir_version}, opset_import: ["" : {opset}]>
        g (float[n, 64] x) => (float[n, 64] y) {{ y = MatMul(x, w) }}
    """)
    model.graph.initializer.append(tensor_of(normal(64, 64), "w"))
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("opset", "ir_version", "release", "becomes"),
    [
        (13, 7, "1.15", 7),
        (17, 10, "1.15.0", 8),
        (19, 10, "1.16", 9),
        (20, 11, "1.17.3", 9),
        (21, 10, "1.18", 10),
        (13, 7, "1.99", 7),
    ],
)
def test_ir_version_is_lowered_where_the_opset_allows(
    tmp_path: Path, opset: int, ir_version: int, release: str, becomes: int
) -> None:
    path, output = written(tmp_path, opset, ir_version), tmp_path / "o.onnx"
    compress(path, output, Options(bits=4), runtime_min=release)
    assert onnx.load(output).ir_version == becomes


@pytest.mark.parametrize(
    ("opset", "release", "message"),
    [
        (20, "1.15", "reads opsets up to 18, the model has 20"),
        (21, "1.17", "reads opsets up to 20, the model has 21"),
        (13, "1.14", "must be 1.15 or later"),
        (13, "new", "must be a release such as 1.15"),
        (13, "1", "must be a release such as 1.15"),
    ],
)
def test_refused(tmp_path: Path, opset: int, release: str, message: str) -> None:
    path = written(tmp_path, opset, 10)
    with pytest.raises(QqonnxError, match=message):
        compress(path, tmp_path / "o.onnx", Options(bits=4), runtime_min=release)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("opset", "release", "refused"),
    [(23, "1.23", True), (22, "1.23.2", False), (23, "1.24", False), (21, "1.18", False)],
)
def test_release_that_lacks_quantize_linear(
    tmp_path: Path, opset: int, release: str, refused: bool
) -> None:
    path, output = written(tmp_path, opset, 10), tmp_path / "o.onnx"
    options = Options(bits=4, compute="int8-static", method="kmeans")
    if refused:
        with pytest.raises(QqonnxError, match="computes QuantizeLinear up to opset 22"):
            compress(path, output, options, runtime_min=release)
        assert not output.exists()
    else:
        compress(path, output, options, runtime_min=release)
        assert any(n.op_type == "QuantizeLinear" for n in onnx.load(output).graph.node)
    compress(path, tmp_path / "float.onnx", Options(bits=4), runtime_min=release)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
def test_every_storage_form_is_opset_13(tmp_path: Path, granularity: str, bits: int) -> None:
    path, output = written(tmp_path, 13, 7), tmp_path / "o.onnx"
    options = Options(bits=bits, granularity=granularity)
    if granularity == "channel" and bits > 5:
        pytest.skip("codebooks would be larger than the weight")
    compress(path, output, options, runtime_min="1.15")
    onnx.checker.check_model(onnx.load(output), full_check=True)
    for node in onnx.load(output).graph.node:
        assert onnx.defs.has(node.op_type, 13)
        since = onnx.defs.get_schema(node.op_type, 13).since_version
        assert since <= 13


RELEASES = ("1.15.0", "1.17.3", "1.19.2", "1.22.1", "1.24.4", "1.28.0", "1.32.0")


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
def test_releases(release: str, matrix: Path) -> None:
    """Every storage form at every opset that the release reads; installs it, so takes an index."""
    tool = Path(__file__).parents[2] / "tools" / "runtime_matrix.py"
    command = [sys.executable, tool, matrix, "--releases", release]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "'pip', 'install'" in done.stderr:
        pytest.skip(f"onnxruntime {release} cannot be installed for this Python")
    assert done.returncode == 0, done.stderr
    results = json.loads((matrix / f"{release}.json").read_text())
    major, minor, _ = map(int, release.split("."))
    newest, _ = LIMITS[max(known for known in LIMITS if known <= (major, minor))]
    checked = 0
    for name, failure in results.items():
        kind, number = name.split()[:2]
        if kind == "opset" and int(number) <= newest:
            assert failure is None, name
            checked += 1
    assert checked == 30 * (newest - 12)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")

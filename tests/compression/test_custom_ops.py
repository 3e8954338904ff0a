"""Models with custom operators, and models that cannot run here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from building import Build, normal

from qqonnx import Calibration, OptionError, Options, Target, compress, evaluate, verify
from qqonnx.compression.quality import Quality
from qqonnx.model.session import custom_operators, open_session
from qqonnx.parallel import in_order

FOREIGN = """<ir_version: 8, opset_import: ["": 17, "my.ops": 1]>
m (float[N,64] x) => (float[N,64] y) { a = MatMul(x, w)  y = my.ops.Unknown(a) }"""


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", "from qqonnx.cli import main; main()", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_a_model_that_cannot_run(build: Build, tmp_path: Path) -> None:
    """Its weights are verified bit for bit, and the last line says what was not compared."""
    source, output = build(FOREIGN, {"w": normal(64, 64)}), tmp_path / "o.onnx"
    report = compress(source, output, Options(bits=4), verify_outputs=False)
    assert report.outputs.reason == "not asked for"
    assert report.quality == Quality((), "", "not asked for")
    assert len(report.weights) == 1
    done = command("convert", source, "-o", output, "--bits", 4, "--no-verify-outputs")
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    assert last == "outputs not compared with the original model: not asked for"


def test_nothing_is_run(digits_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("qqonnx.model.compare.open_for_comparison", run)
    monkeypatch.setattr("qqonnx.compression.quality.open_for_comparison", run)
    compress(digits_model, options=Options(bits=4, method="uq"), verify_outputs=False)


@pytest.mark.parametrize("content", [None, b"no library"])
def test_a_library_that_does_not_load(build: Build, tmp_path: Path, content: bytes | None) -> None:
    library, source = tmp_path / "ops.so", build(FOREIGN, {"w": normal(64, 64)})
    if content is not None:
        library.write_bytes(content)
    for call in (
        lambda: compress(source, custom_ops=[library]),
        lambda: verify(source, source, custom_ops=[library]),
        lambda: evaluate(source, [{"x": normal(1, 64)}], custom_ops=[library]),
    ):
        with pytest.raises(OptionError, match=r"custom_ops: .*ops\.so: n"):
            call()
    done = command("convert", source, "-o", tmp_path / "o.onnx", "--custom-ops", library)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: --custom-ops: {library}: ")
    assert not (tmp_path / "o.onnx").exists()


def test_every_session_registers_the_libraries(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that a thread opens; none after the block."""
    registered = []

    def register(_: object, path: str) -> None:
        registered.append(path)

    monkeypatch.setattr("onnxruntime.SessionOptions.register_custom_ops_library", register)
    library = tmp_path / "ops.so"
    library.touch()
    content = onnx.load(build(FOREIGN.replace("my.ops.Unknown", "Relu"), {"w": normal(64, 64)}))
    model = content.SerializeToString()
    with custom_operators([library]):
        registered.clear()
        list(in_order(lambda _: open_session(model), [1, 2], size=lambda _: 1, threads=2))
        assert registered == [str(library)] * 2
    open_session(model)
    assert len(registered) == 2


@pytest.mark.slow
def test_onnxruntime_extensions(build: Build, tmp_path: Path) -> None:
    """A published library: calibration, verification, comparison and evaluation run with it."""
    extensions = pytest.importorskip("onnxruntime_extensions")
    library = extensions.get_library_path()
    text = """<ir_version: 8, opset_import: ["": 17, "ai.onnx.contrib": 1]>
    m (float[64,64] x) => (float[64,64] y) {
      a = MatMul(x, w)  i = ai.onnx.contrib.Inverse(a)  y = MatMul(i, v) }"""
    arrays = {"w": normal(64, 64) + 8 * np.eye(64, dtype=np.float32), "v": normal(64, 64, seed=1)}
    source, output = build(text, arrays), tmp_path / "o.onnx"
    inputs = [{"x": normal(64, 64, seed=n) + 9 * np.eye(64, dtype=np.float32)} for n in range(4)]
    assert compress(source, output).quality.reason is not None
    calibration = Calibration(inputs, target=Target(bits=8))
    report = compress(source, output, calibration=calibration, custom_ops=[library])
    assert report.outputs.reason is None
    assert report.quality.outputs[0].relative_error < 0.5
    assert verify(source, output, custom_ops=[library]).outputs.reason is None
    assert evaluate(output, inputs, baseline=source, custom_ops=[library]).rows

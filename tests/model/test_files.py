"""Written files are complete or absent, whatever fails."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Options, QqonnxError, compress, inspect, restore
from qqonnx.cli import main
from qqonnx.encoding.verify import compare_weights, verify_file
from qqonnx.model import save
from qqonnx.model.compare import compare_arrays
from qqonnx.model.load import read

MATMUL = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,64] x) => (float[N,M] y) { v = MatMul(x, w)  y = MatMul(v, u) }"""


@pytest.fixture
def model(build: Build) -> Path:
    return build(MATMUL, {"w": normal(64, 96), "u": normal(96, 80, seed=1)})


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


CONVERT = (
    "pipeline.load",
    "choice.select",
    "plain.encode",
    "job.rewrite",
    "job.write",
    "pipeline.verify_file",
)
CALIBRATE = ("moment_passes", "measure_weights", "best_allocation", "quantize_matrix")
STAGES = [
    *(("convert --fast", f"qqonnx.compression.{step}") for step in CONVERT),
    *(("convert --target-bits 9", f"qqonnx.calibration.calibrate.{step}") for step in CALIBRATE),
    ("convert", "qqonnx.compression.calibrated.lost_output"),
    ("restore", "qqonnx.compression.restore.read"),
    ("restore", "qqonnx.compression.restore.restore_weights"),
    ("restore", "qqonnx.model.save.write"),
]


@pytest.fixture
def heeded() -> Iterator[None]:
    """Handle Ctrl-C, which a shell makes background processes ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(("command", "step"), STAGES)
@pytest.mark.parametrize("external", [[], ["--external-data"]], ids=["", "external"])
def test_ctrl_c_after_each_step(
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    step: str,
    external: list[str],
) -> None:
    """The exit code is 130, nothing is printed, the target is unchanged, no other file remains."""
    text = MATMUL.replace("y = MatMul(v, u)", "b = MatMul(v, u)  y = Add(b, c)")
    arrays = {"w": normal(64, 96), "u": normal(96, 80, seed=1), "c": normal(80, seed=2)}
    source, target = build(text, arrays), tmp_path / "out.onnx"
    if command == "restore":
        compress(source, tmp_path / "packed.onnx", Options(bits=8, method="uq"))
        source = tmp_path / "packed.onnx"
    target.write_bytes(b"before")
    before = names_in(tmp_path)
    module, name = step.rsplit(".", 1)
    finish = getattr(importlib.import_module(module), name)

    def interrupted(*arguments: object, **keywords: object) -> object:
        result = finish(*arguments, **keywords)
        signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(step, interrupted)
    words = [*command.split(), str(source), "-o", str(target), *external]
    monkeypatch.setattr(sys, "argv", ["qqonnx", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr() == ("", "")
    assert names_in(tmp_path) == before
    assert target.read_bytes() == b"before"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("command", ["convert", "restore"])
@pytest.mark.parametrize("external", [[], ["--external-data"]])
def test_disk_full(model: Path, tmp_path: Path, command: str, external: list[str]) -> None:
    """A limit on file sizes simulates a full disk."""
    packed = tmp_path / "packed.onnx"
    compress(model, packed, Options(bits=8))
    source, limit = (model, 3000) if command == "convert" else (packed, 20_000)
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from qqonnx.cli import main; main()"
    )
    before = names_in(tmp_path)
    arguments = [command, str(source), "-o", str(tmp_path / "out.onnx"), *external]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'out.onnx'}: cannot write: ")
    assert line.endswith(("File too large", "the disk may be full"))
    assert names_in(tmp_path) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing/out.onnx", "No such file or directory"),
        ("model.onnx/out.onnx", "Not a directory"),
        ("folder", "it is a folder"),
    ],
)
def test_targets_that_cannot_be(model: Path, tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    before = names_in(tmp_path)
    with pytest.raises(QqonnxError, match=f"{target}: cannot write: {message}"):
        compress(model, tmp_path / target)
    assert names_in(tmp_path) == before
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("external", [True, False])
def test_onto_itself(model: Path, tmp_path: Path, external: bool) -> None:
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="model.onnx.data")
    expected = tmp_path / "expected.onnx"
    report = compress(model, expected, Options(bits=4))
    same = compress(model, model, Options(bits=4), external_data=external)
    assert (same.bytes_before, same.weights) == (report.bytes_before, report.weights)
    assert compare_weights(read(model), read(expected)).equal
    restore(model, model, external_data=external)
    assert compare_weights(read(model), read(expected)).equal
    assert not inspect(model).weights


def test_errors_name_the_target(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qqonnx.encoding.verify.digest", lambda _: b"")
    with pytest.raises(QqonnxError, match=f"^{tmp_path / 'out.onnx'}: weight 'w' does not decode"):
        compress(model, tmp_path / "out.onnx")


def test_models_above_the_protobuf_limit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit, which is lowered here, tensors go to a second file automatically."""
    monkeypatch.setattr(save, "PROTOBUF_LIMIT", 20_000)
    large, packed, plain = (tmp_path / name for name in ("large.onnx", "packed.onnx", "plain.onnx"))
    onnx.save(onnx.load(model), large, save_as_external_data=True, location="large.bin")
    report = compress(large, packed, Options(bits=4))
    assert names_in(tmp_path) == {"model.onnx", "large.onnx", "large.bin", "packed.onnx"}
    assert report.outputs.equal
    restore(packed, plain)
    assert (tmp_path / "plain.onnx.data").stat().st_size >= 4 * (64 * 96 + 96 * 80)
    inputs = {"x": normal(2, 64)}
    np.testing.assert_allclose(
        ort.InferenceSession(plain).run(None, inputs)[0],
        ort.InferenceSession(packed).run(None, inputs)[0],
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_few_large_weights_are_held(build: Build, tmp_path: Path, threads: int) -> None:
    """Peak memory is a few times that of the weights in progress, not that of the whole model."""
    count, side = 48, 256
    body = "  ".join(f"x{n + 1} = MatMul(x{n}, w{n})" for n in range(count))
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[N,{side}] x0) => (float[N,{side}] x{count}) {{ {body} }}"""
    weights = {f"w{n}": normal(side, side, seed=n) for n in range(count)}
    large = tmp_path / "large.onnx"
    proto = onnx.load(build(text, weights))
    onnx.save(proto, large, save_as_external_data=True, location="large.bin")
    del proto
    one = 4 * side * side
    compress(large, tmp_path / "warm.onnx", Options(bits=1, method="uq"), threads=threads)
    tracemalloc.start()
    compress(large, tmp_path / "packed.onnx", Options(bits=1, method="uq"), threads=threads)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All 48, packed into a thirty-second, are held until they are written.
    assert peak < (4 + 9 * threads) * one


@pytest.mark.parametrize("damaged", ["data", "graph"])
def test_truncated_external_data(model: Path, tmp_path: Path, damaged: str) -> None:
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="weights.bin")
    file = tmp_path / "weights.bin" if damaged == "data" else model
    file.write_bytes(file.read_bytes()[:-10])
    before = names_in(tmp_path)
    with pytest.raises(QqonnxError, match="truncated|damaged"):
        compress(model, tmp_path / "out.onnx")
    assert names_in(tmp_path) == before


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.001], True),
        ([1.0, 2.0], [1.0, 2.01], False),
        ([1.0, np.nan], [1.0, np.nan], True),
        ([1.0, 2.0], [1.0, np.nan], False),
        ([1.0, np.nan], [1.0, 2.0], False),
        ([1.0, np.inf], [1.0, np.inf], True),
        ([1.0, np.inf], [1.0, -np.inf], False),
        ([1.0, np.inf], [3.0, np.inf], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.0], [0.0, 1e-9], False),
        ([1.0, 2.0], [1.0], False),
    ],
)
def test_comparing_outputs(expected: list[float], actual: list[float], equal: bool) -> None:
    check = compare_arrays([np.float32(expected)], [np.float32(actual)])
    assert (check.reason, check.equal) == (None, equal)


@pytest.mark.parametrize("output", [np.float32([np.nan]), ["text"], np.array(["text"])])
def test_outputs_that_cannot_be_compared(output: object) -> None:
    assert compare_arrays([output], [output]).reason


def test_weights_of_one_file_only(build: Build, tmp_path: Path) -> None:
    first = build(MATMUL, {"w": normal(64, 96), "u": normal(96, 80)}, "first.onnx")
    renamed = MATMUL.replace(" u)", " t)")
    second = build(renamed, {"w": normal(64, 96), "t": normal(96, 80)}, "second.onnx")
    check = compare_weights(read(first), read(second))
    assert (check.same, check.different) == (1, ())
    assert (check.only_first, check.only_second) == (("u",), ("t",))
    assert not check.equal


@pytest.mark.parametrize("planned", [{"w": b"other"}, {"absent": b""}])
def test_weights_that_are_not_as_planned(
    model: Path, tmp_path: Path, planned: dict[str, bytes]
) -> None:
    packed = tmp_path / "packed.onnx"
    compress(model, packed, Options(bits=4, min_size=1))
    before = names_in(tmp_path)
    with pytest.raises(QqonnxError, match=f"weight '{next(iter(planned))}'"):
        verify_file(packed, planned)
    assert names_in(tmp_path) == before

"""Several conversions at once, any number of threads, and Ctrl-C at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from building import normal, tensor_of

from qqonnx import Options, compress

CONVERT = [sys.executable, "-c", "from qqonnx.cli import convert_model; convert_model()"]


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 300] x) => (float[n, 200] y) { a = MatMul(x, w) y = MatMul(a, v) }
    """
    proto = onnx.parser.parse_model(text)
    for name, shape in (("w", (300, 300)), ("v", (300, 200))):
        proto.graph.initializer.append(tensor_of(normal(*shape), name))
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(proto, path)
    return path


def converting(
    model: Path, output: Path, *options: object, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CONVERT, *map(str, (model, "-o", output, "--quiet", *options))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=output.parent,
        start_new_session=True,
    )


def test_several_conversions_into_one_folder(model: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone.onnx", tmp_path / "together"
    together.mkdir()
    compress(model, alone, Options(bits=4))
    names = ["a.onnx", "b.onnx", "c.onnx"]
    running = [converting(model, together / name, "--bits", 4) for name in names]
    for process in running:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert sorted(path.name for path in together.iterdir()) == names
    for name in names:
        assert (together / name).read_bytes() == alone.read_bytes()


def test_the_same_target_twice_at_once(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    running = [converting(model, output, "--bits", bits) for bits in (2, 8)]
    assert [process.wait() for process in running] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["o.onnx"]
    wanted = set()
    for bits in (2, 8):
        compress(model, tmp_path / f"{bits}.onnx", Options(bits=bits))
        wanted.add((tmp_path / f"{bits}.onnx").read_bytes())
    assert output.read_bytes() in wanted


@pytest.mark.parametrize(
    "options",
    [
        ("--bits", 3, "--granularity", "tensor"),
        ("--bits", 3, "--granularity", "channel"),
        ("--bits", 3, "--granularity", "scale"),
        ("--target-bits", 4.4),
    ],
    ids=["tensor", "channel", "scale", "calibrated"],
)
def test_threads_do_not_change_a_byte(
    model: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    contents = set()
    for threads in (1, 3, 8):
        output = tmp_path / f"{threads}.onnx"
        environment = dict.fromkeys(variables, str(threads))
        process = converting(model, output, *options, "--threads", threads, **environment)
        assert process.communicate()[1] == ""
        contents.add(output.read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("both", [False, True], ids=["one file", "external data"])
def test_ctrl_c_leaves_nothing_behind(model: Path, tmp_path: Path, both: bool) -> None:
    options = ("--external-data",) if both else ()
    start = time.monotonic()
    assert converting(model, tmp_path / "o.onnx", *options).wait() == 0
    seconds = time.monotonic() - start
    names = {"o.onnx", "o.onnx.data"} if both else {"o.onnx"}
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    chance = random.Random(0)
    for turn in range(6):
        for path in tmp_path.iterdir():
            path.unlink()
        process = converting(model, tmp_path / "o.onnx", *options)
        # Before this the interpreter itself is starting, and nothing has been made yet.
        time.sleep(seconds * (0.2 + 0.8 * (turn + chance.random()) / 6))
        process.send_signal(signal.SIGINT if turn % 2 else signal.SIGTERM)
        process.communicate()
        found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert found in ({}, whole)

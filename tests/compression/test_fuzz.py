"""Damaged files: an error of one line or a result, and nothing but the output written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from building import normal, tensor_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutation import changed_bytes, changed_fields

from qqonnx import Options, QqonnxError, compress, inspect, restore
from qqonnx.encoding.verify import compare_weights
from qqonnx.model import compare
from qqonnx.model.load import read

PLAIN = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[n, m] x, bool[1] flag) => (float[n, m] y) {
    a = MatMul(x, w)
    b = own.f(a)
    y = If (flag) <
        then_branch = yes () => (float[n, m] p) { p = Gemm(b, u) },
        else_branch = no () => (float[n, m] q) { q = Loop(trips, go, b) <
            body = round (int64 i, bool c, float[n, m] s) => (bool c2, float[n, m] t) {
                c2 = Identity(c)
                t = MatMul(s, w)
            }
        > }
    >
}
<domain: "own", opset_import: ["" : 17]>
f (v) => (r) {
    k = Constant <value: tensor = float[2] {1.0, 2.0}> ()
    m = ReduceMax(k)
    r = Mul(v, m)
}
"""

ACTIONS: dict[str, Callable[[Path, Path], object]] = {
    "compress": lambda model, output: compress(model, output, Options(bits=3, min_size=8)),
    "scale": lambda model, output: compress(
        model, output, Options(bits=4, min_size=8, granularity="scale"), external_data=True
    ),
    "inspect": lambda model, _: inspect(model),
    "restore": restore,
    "verify": lambda model, _: (
        compare_weights(read(model), read(model)),
        compare.compare_outputs(model, model),
    ),
}


@cache
def original(which: int) -> bytes:
    """The plain model, or one of three compressed ones."""
    model = onnx.parser.parse_model(PLAIN)
    size = 8 if which == 0 else 64
    arrays = {"w": normal(size, size) * np.float32(0.1), "u": normal(size, size, seed=1)}
    arrays |= {"trips": np.array(2), "go": np.array(True)}
    model.graph.initializer.extend(tensor_of(array, name) for name, array in arrays.items())
    with TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain.onnx", Path(folder) / "packed.onnx"
        onnx.save(model, plain)
        if which == 0:
            return plain.read_bytes()
        bits, granularity = ((1, "tensor"), (3, "channel"), (5, "scale"))[which - 1]
        compress(plain, packed, Options(bits=bits, granularity=granularity))
        return packed.read_bytes()


@contextlib.contextmanager
def _nothing_else(folder: Path, allowed: set[str]) -> Iterator[None]:
    yield
    assert {path.name for path in folder.iterdir()} <= allowed


def survives(data: bytes, folder: Path) -> None:
    model, output = folder / "model.onnx", folder / "output.onnx"
    for action in ACTIONS.values():
        model.write_bytes(data)
        output.unlink(missing_ok=True)
        with _nothing_else(folder, {"model.onnx", "output.onnx", "output.onnx.data"}):
            try:
                action(model, output)
            except QqonnxError as error:
                assert str(error).isprintable()  # noqa: PT017 - most inputs are refused
                assert not output.exists()
        assert model.read_bytes() == data


@pytest.mark.parametrize("change", [changed_fields, changed_bytes])
@settings(
    max_examples=60,
    print_blob=False,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(which=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_damaged_models(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[bytes, int], bytes],
    which: int,
    seed: int,
) -> None:
    monkeypatch.setattr(compare, "RUN_SECONDS", 2.0)
    survives(change(original(which), seed), tmp_path)

"""Files made to do harm: each is refused in one line, or does none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from building import normal, tensor_of

from qqonnx import Options, QqonnxError, compress, inspect, restore
from qqonnx.cli import main
from qqonnx.cli.memory import BASE_BYTES
from qqonnx.encoding.verify import compare_weights
from qqonnx.model import compare
from qqonnx.model.load import read

SMALL = Options(bits=4, min_size=8)

MATMUL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 32] x) => (float[1, 32] y) { y = MatMul(x, w) }
"""


def matmul(text: str = MATMUL, **arrays: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for name, array in (arrays or {"w": normal(32, 32)}).items():
        model.graph.initializer.append(tensor_of(array, name))
    return model


def refused(model: onnx.ModelProto, folder: Path) -> str:
    """Return the one line that every command refuses the model with; nothing is written."""
    path = folder / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    before = sorted(folder.iterdir())
    messages = set()
    for action in (
        lambda: compress(path, folder / "out.onnx", SMALL),
        lambda: inspect(path),
        lambda: restore(path, folder / "out.onnx"),
        lambda: compare_weights(read(path), read(path)),
    ):
        with pytest.raises(QqonnxError) as raised:
            action()
        messages.add(str(raised.value))
    assert sorted(folder.iterdir()) == before
    (message,) = messages
    assert len(message.splitlines()) == 1
    assert str(path) in message
    return message


def external(tensor: onnx.TensorProto, **entries: object) -> onnx.TensorProto:
    """Turn the tensor into one whose data are where `entries` say."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, "outside the model's folder"),
        ({"location": "sub/../../secret"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "C:\\secret"}, "invalid location"),
        ({"location": ""}, "invalid location"),
        ({}, "invalid location"),
        ({"location": "link"}, "symbolic link"),
        ({"location": "linked/data"}, "symbolic link"),
        ({"location": "link out"}, "outside the model's folder"),
        ({"location": "sub"}, "not a regular file"),
        ({"location": "pipe"}, "not a regular file"),
        ({"location": "missing"}, "missing"),
        ({"location": "data", "offset": -8}, "not a number of bytes"),
        ({"location": "data", "offset": "9" * 5000}, "not a number of bytes"),
        ({"location": "data", "offset": "0x10"}, "not a number of bytes"),
        ({"location": "data", "offset": 2**62}, "truncated"),
        ({"location": "data", "offset": 4}, "truncated"),
        ({"location": "data", "length": 2**62}, "4096"),
        ({"location": "data", "length": 4}, "4096"),
        ({"location": "data", "length": -1}, "not a number of bytes"),
    ],
)
@pytest.mark.parametrize("place", ["initializer", "constant", "function"])
def test_external_data(
    tmp_path: Path, place: str, entries: dict[str, object], message: str
) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    data = normal(32, 32).tobytes()
    for file in (folder / "data", folder / "sub" / "data", tmp_path / "secret"):
        file.write_bytes(data)
    (folder / "link").symlink_to("data")
    (folder / "linked").symlink_to("sub")
    (folder / "link out").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    model = {"initializer": matmul, "constant": _in_constant, "function": _in_function}[place]()
    external(_weight(model), **entries)
    assert message in refused(model, folder)


@pytest.mark.parametrize("place", ["initializer", "constant", "function"])
def test_strings_elsewhere(tmp_path: Path, place: str) -> None:
    model = {"initializer": matmul, "constant": _in_constant, "function": _in_function}[place]()
    tensor = external(_weight(model), location="/etc/passwd")
    tensor.data_type = onnx.TensorProto.STRING
    assert "holds strings, which cannot be external data" in refused(model, tmp_path)


def _in_constant() -> onnx.ModelProto:
    model = matmul()
    tensor = model.graph.initializer.pop()
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    return model


def _in_function() -> onnx.ModelProto:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[1, 32] x) => (float[1, 32] y) { y = own.f(x) }
        <domain: "own", opset_import: ["" : 17]>
        f (a) => (b) { b = MatMul(a, w) }
    """)
    tensor = tensor_of(normal(32, 32), "w")
    node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    model.functions[0].node.insert(0, node)
    return model


def _weight(model: onnx.ModelProto) -> onnx.TensorProto:
    if model.graph.initializer:
        return model.graph.initializer[0]
    holder = model.functions[0] if model.functions else model.graph
    return holder.node[0].attribute[0].t


@pytest.mark.parametrize("make", [_in_constant, _in_function])
def test_external_data_of_attributes_moves_into_the_file(
    tmp_path: Path, make: Callable[[], onnx.ModelProto]
) -> None:
    model, folder, output = make(), tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    output.mkdir()
    (folder / "data").write_bytes(b"12345678" + normal(32, 32).tobytes())
    external(_weight(model), location="data", offset=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    compress(folder / "model.onnx", output / "small.onnx", SMALL)
    plain = restore(output / "small.onnx", output / "plain.onnx")
    assert plain == 1
    assert "data" not in (output / "small.onnx").read_bytes().decode("latin1").split("qqonnx")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.dims.__setitem__(0, -32), "negative dimension"),
        (lambda t: t.dims.__setitem__(0, 2**62), "its shape and type require"),
        (lambda t: t.dims.extend([2**40, 2**40]), "its shape and type require"),
        (lambda t: t.dims.append(0), "its shape and type require 0"),
        (lambda t: setattr(t, "raw_data", b""), "has 0 bytes"),
        (lambda t: setattr(t, "raw_data", t.raw_data[:-1]), "has 4095 bytes"),
        (lambda t: setattr(t, "raw_data", t.raw_data + b"1"), "has 4097 bytes"),
        (lambda t: setattr(t, "data_type", 77), "unknown data type: 77"),
        (lambda t: setattr(t, "data_type", 0), "unknown data type: 0"),
        (lambda t: setattr(t, "data_type", onnx.TensorProto.STRING), "has 0 strings"),
        (lambda t: setattr(t, "data_type", onnx.TensorProto.UINT4), "require 512"),
        (lambda t: t.segment.MergeFrom(onnx.TensorProto.Segment(begin=0, end=9)), "segments"),
    ],
)
@pytest.mark.parametrize("make", [matmul, _in_constant, _in_function])
def test_tensors_that_lie(
    tmp_path: Path,
    make: Callable[[], onnx.ModelProto],
    change: Callable[[onnx.TensorProto], object],
    message: str,
) -> None:
    model = make()
    change(_weight(model))
    assert message in refused(model, tmp_path)


def test_tensor_of_too_few_numbers(tmp_path: Path) -> None:
    model = matmul()
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[32, 32], float_data=[1.0] * 1023)
    model.graph.initializer[0].CopyFrom(tensor)
    assert "has 1023 numbers" in refused(model, tmp_path)


@pytest.mark.parametrize("field", ["float_data", "int32_data", "int64_data", "string_data"])
@pytest.mark.parametrize("make", [matmul, _in_constant, _in_function])
def test_tensor_that_holds_data_twice(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], field: str
) -> None:
    model = make()
    getattr(_weight(model), field).append(b"0" if field == "string_data" else 0)
    assert f"has data in raw_data and in {field}" in refused(model, tmp_path)


def graph_of(nodes: str) -> onnx.ModelProto:
    return matmul(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 32] x) => (float[1, 32] y) {{ {nodes} }}
    """)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("a = MatMul(b, w) b = Relu(a) y = Add(a, x)", "damaged ONNX model"),
        ("a = Relu(a) y = MatMul(a, w)", "damaged ONNX model"),
        ("y = MatMul(x, w) y = Relu(x)", "output 'y' is defined twice"),
        ("w = Relu(x) y = MatMul(x, w)", "output 'w' is defined twice"),
        ("x = Relu(w) y = MatMul(x, w)", "output 'x' is defined twice"),
        ("a = Relu(x) y = MatMul(nothing, w)", "'nothing', which is not defined"),
        ("a = MatMul(x, w)", "'y', which is not defined"),
        ("y = MatMul <to = 1, to = 2> (x, w)", "attribute 'to' is defined twice"),
    ],
)
def test_graphs_that_do_not_fit(tmp_path: Path, nodes: str, message: str) -> None:
    assert message in refused(graph_of(nodes), tmp_path)


def test_nodes_in_no_order_are_sorted(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(graph_of("y = Relu(a) a = MatMul(x, w)").SerializeToString())
    compress(path, tmp_path / "small.onnx", SMALL)
    onnx.checker.check_model(onnx.load(tmp_path / "small.onnx"), full_check=True)


@pytest.mark.parametrize("kind", ["TENSOR", "GRAPH", "SPARSE_TENSOR", "TYPE_PROTO"])
def test_attributes_that_hold_nothing(tmp_path: Path, kind: str) -> None:
    model = _in_constant()
    attribute = model.graph.node[0].attribute[0]
    attribute.ClearField("t")
    attribute.type = onnx.AttributeProto.AttributeType.Value(kind)
    assert "attribute 'value' is empty" in refused(model, tmp_path)


def test_a_constant_of_another_type_stays(tmp_path: Path) -> None:
    model = graph_of("a = MatMul(x, w) c = Constant <value = 3> () y = Identity(a)")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert [plain.name for plain in inspect(path).plain] == ["w"]


def test_names_given_twice(tmp_path: Path) -> None:
    model = matmul()
    model.graph.initializer.append(tensor_of(normal(32, 32, seed=1), "w"))
    assert "initializer 'w' is defined twice" in refused(model, tmp_path)
    model = matmul()
    model.graph.input.append(model.graph.input[0])
    assert "input 'x' is defined twice" in refused(model, tmp_path)


@pytest.mark.parametrize("calls", ["own.f", "own.h"])
def test_functions_that_call_themselves(tmp_path: Path, calls: str) -> None:
    model = matmul(f"""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[1, 32] x) => (float[1, 32] y) {{ a = own.f(x) y = MatMul(a, w) }}
        <domain: "own", opset_import: ["" : 17, "own" : 1]> f (a) => (b) {{ b = {calls}(a) }}
        <domain: "own", opset_import: ["" : 17, "own" : 1]> h (a) => (b) {{ b = own.f(a) }}
    """)
    assert "calls itself" in refused(model, tmp_path)


def test_sparse_tensors(tmp_path: Path) -> None:
    model = matmul()
    model.graph.sparse_initializer.add(dims=[2**40, 2**40])
    assert "sparse" in refused(model, tmp_path)


def test_graphs_nested_too_deep(tmp_path: Path) -> None:
    graph = matmul().graph
    for _ in range(200):
        outer = onnx.GraphProto(name="g")
        node = outer.node.add(op_type="If", output=["y"])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph)
        graph = outer
    graph.output.add(name="y")
    model = matmul()
    model.graph.CopyFrom(graph)
    refused(model, tmp_path)


def test_tensors_of_no_size_stay(tmp_path: Path) -> None:
    model = graph_of("a = MatMul(x, w) y = Concat <axis = 0> (a, e)")
    model.graph.initializer.append(tensor_of(np.empty((0, 32), np.float32), "e"))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    report = compress(path, tmp_path / "small.onnx", SMALL)
    assert [weight.name for weight in report.weights] == ["w"]
    assert report.outputs.equal


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_models_that_are_no_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.onnx"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(QqonnxError, match="not a file"):
        inspect(path)


WEIGHT = {"method": "kmeans", "levels": 16, "granularity": "tensor", "l1": 0, "l2": 0, "sqnr": 9}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"weights": 1}',
        '{"weights": {"w": 1}}',
        '{"weights": []}',
        '{"weights": {"w": [1, 2]}}',
        '{"weights": {"w": [1, 2, 3, 4]}}',
        '{"common": 1, "weights": {"w": [1, 2, 3]}}',
        "1" * 100_000,
    ],
)
def test_damaged_records(tmp_path: Path, text: str) -> None:
    model = matmul()
    model.metadata_props.add(key="qqonnx", value=text)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    for action in (lambda: inspect(path), lambda: restore(path, tmp_path / "out.onnx")):
        with pytest.raises(QqonnxError, match="is damaged"):
            action()


@pytest.mark.parametrize(
    "change",
    [
        {"levels": 300},
        {"levels": "16"},
        {"levels": [16]},
        {"levels": 4.0},
        {"levels": 7},
        {"levels": None},
        {"l1": "x"},
        {"sqnr": {}},
    ],
)
def test_records_that_do_not_fit(tmp_path: Path, change: dict[str, object]) -> None:
    path, packed = tmp_path / "m.onnx", tmp_path / "packed.onnx"
    path.write_bytes(matmul().SerializeToString())
    compress(path, packed, SMALL)
    model = onnx.load(packed)
    record = json.loads(model.metadata_props[0].value)
    record["weights"]["w"].append(change)
    model.metadata_props[0].value = json.dumps(record)
    packed.write_bytes(model.SerializeToString())
    with pytest.raises(QqonnxError, match="is damaged|its record does not fit"):
        inspect(packed)


def forged(tmp_path: Path, nodes: str, **arrays: np.ndarray) -> Path:
    """Return a model that says its nodes decode a weight w."""
    model = matmul(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 32] x) => (float y) <float[32, 32] w> {{ {nodes} y = ReduceMax(w) }}
        """,
        **arrays,
    )
    record = json.dumps({"version": "0", "weights": {"w": WEIGHT}})
    model.metadata_props.add(key="qqonnx", value=record)
    path = tmp_path / "forged.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("w = Exp(small)", "not a decode node"),
        ("w = RandomNormal <shape = [32, 32]> ()", "not a decode node"),
        ("r = Range(zero, huge, one) w = Gather(small, r)", "far more values than are stored"),
        ("r = Range(zero, huge, zero) w = Gather(small, r)", "decode nodes do not run"),
        ("w = Gather(wide, i)", "far more values than are stored"),
        ("w = Add(column, wide)", "far more values than are stored"),
        ("w = Mul(x, small)", "weight 'w'"),
    ],
)
def test_forged_decode_nodes(tmp_path: Path, nodes: str, message: str) -> None:
    path = forged(
        tmp_path,
        nodes,
        small=normal(16),
        wide=normal(1, 100_000),
        column=normal(100_000, 1),
        i=np.zeros(100_000, np.int32),
        zero=np.array(0, np.int32),
        one=np.array(1, np.int32),
        huge=np.array(2**31 - 1, np.int32),
    )
    with pytest.raises(QqonnxError, match=message):
        restore(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_loop_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "RUN_SECONDS", 0.5)
    path = tmp_path / "m.onnx"
    model = matmul(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 32] x) => (float[1, 32] y) {
            y = Loop(trips, go, x) <
                body = b (int64 i, bool c, float[1, 32] s) => (bool d, float[1, 32] t) {
                    d = Identity(c)
                    t = MatMul(s, w)
                }
            >
        }
        """,
        w=normal(32, 32),
        trips=np.array(2**62),
        go=np.array(True),
    )
    path.write_bytes(model.SerializeToString())
    report = compress(path, tmp_path / "small.onnx", SMALL)
    assert report.outputs.reason
    assert "took more than 0.5 s" in report.outputs.reason


def test_huge_inputs_are_not_generated(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    text = MATMUL.replace("float[1, 32] x", f"float[{2**40}, 32] x")
    path.write_bytes(matmul(text.replace("float[1, 32] y", "float[n, 32] y")).SerializeToString())
    report = compress(path, tmp_path / "small.onnx", SMALL)
    assert report.outputs.reason
    assert "too large" in report.outputs.reason


def test_names_of_a_model_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = matmul()
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "\x1b[31mred\n[bold]w"
    path, packed = tmp_path / "m.onnx", tmp_path / "packed.onnx"
    path.write_bytes(model.SerializeToString())
    compress(path, packed, SMALL)
    for arguments in (["inspect", packed], ["verify", packed, path]):
        monkeypatch.setattr(sys, "argv", ["qqonnx", *map(str, arguments)])
        with pytest.raises(SystemExit):
            main()
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\\x1b[31mred\\n[bold]w" in out
    model.graph.initializer[0].raw_data = b"\x00\x00\xc0\x7f" * 1024
    path.write_bytes(model.SerializeToString())
    with pytest.raises(QqonnxError) as raised:
        compress(path, tmp_path / "out.onnx", SMALL)
    assert str(raised.value).isprintable()


def run(code: str, *arguments: object, limit: str = "") -> subprocess.CompletedProcess[str]:
    prelude = f"import resource, sys, pathlib; {limit}\nfrom qqonnx import *\n"
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


COMPRESS = """
source, output = map(pathlib.Path, sys.argv[1:3])
try:
    compress(source, output)
except QqonnxError as error:
    print(error)
"""


def test_full_disk(digits_model: Path, tmp_path: Path) -> None:
    # A limit on file size stands in for a disk that is full: the write fails half-way.
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    done = run(COMPRESS, digits_model, tmp_path / "o.onnx", limit=limit)
    assert "cannot write: File too large" in done.stdout
    assert not done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def plain_user() -> Iterator[None]:
    """Root may write anywhere: give that up for the test."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_read_only_target(
    digits_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tmp_path.chmod(0o500)
    request.getfixturevalue("plain_user")
    with pytest.raises(QqonnxError, match="cannot write: Permission denied"):
        compress(digits_model, tmp_path / "o.onnx")


def test_targets_that_cannot_be_written(digits_model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", Path("/proc/o.onnx"), tmp_path / "no" / "o.onnx"):
        with pytest.raises(QqonnxError, match="cannot write"):
            compress(digits_model, target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_link_at_the_target_is_replaced_not_followed(digits_model: Path, tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "o.onnx"
    victim.write_text("precious")
    target.symlink_to(victim)
    compress(digits_model, target)
    assert victim.read_text() == "precious"
    assert not target.is_symlink()


def test_the_data_being_read_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    (tmp_path / "o.onnx.data").write_bytes(normal(32, 32).tobytes())
    model = matmul()
    model.graph.initializer.append(tensor_of(normal(2, 2), "kept"))
    model.graph.node.add(op_type="Relu", input=["kept"], output=["unused"])
    for tensor in model.graph.initializer:
        external(tensor, location="o.onnx.data")
    path.write_bytes(model.SerializeToString())
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for output, both in (("o.onnx", True), ("o.onnx.data", False)):
        with pytest.raises(QqonnxError, match="choose another name"):
            compress(path, tmp_path / output, SMALL, external_data=both)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.skipif(sys.platform != "linux", reason="the limit works on Linux only")
def test_memory_is_bounded() -> None:
    code = f"""
from qqonnx.cli.memory import limited_memory
import numpy
with limited_memory(0):
    held = numpy.ones({BASE_BYTES} // 64)
    try:
        numpy.empty({BASE_BYTES} // 4)
    except MemoryError:
        print("refused")
numpy.empty({BASE_BYTES} // 4)
"""
    done = run(code)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the limit works on Linux only")
def test_a_model_that_takes_more_memory_is_stopped(tmp_path: Path) -> None:
    """Half a kilobyte of graph that asks for five times the bound, and for ever more of it."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 32] x) => (float y) {{
            shape = Constant <value = int64[2] {{{5 * BASE_BYTES // 128}, 32}}> ()
            a = MatMul(x, w)
            wide = Expand(a, shape)
            y = ReduceMax <keepdims = 0> (wide)
        }}
    """
    path = tmp_path / "m.onnx"
    path.write_bytes(matmul(text).SerializeToString())
    code = f"""
import resource
from qqonnx.cli import main
sys.argv = ["qqonnx", "convert", {str(path)!r}, "-o", {str(tmp_path / "o.onnx")!r}, "--json"]
try:
    main()
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak, file=sys.stderr)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "Failed to allocate" in json.loads(done.stdout)["outputs"]["reason"]
    assert int(done.stderr.split()[-1]) < BASE_BYTES

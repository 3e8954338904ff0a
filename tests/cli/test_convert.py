"""The command line from end to end on the bundled model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from building import Build, normal

from qqonnx import Options, compress
from qqonnx.cli import convert_model, main


def command(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    sys.argv = ["qqonnx", *map(str, args)]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("bits", range(1, 9))
def test_sizes_are_accounted_for(digits_model: Path, tmp_path: Path, bits: int) -> None:
    report = compress(digits_model, tmp_path / "o.onnx", Options(bits=bits, method="uq"))
    elements = sum(weight.bytes_before // 4 for weight in report.weights)
    assert sum(weight.bytes_after for weight in report.weights) <= (
        elements * bits / 8 + len(report.weights) * (2**bits * 4 + 8)
    )
    graph = len(onnx.load(digits_model).graph.node) * 1000
    payload = sum(weight.bytes_after for weight in report.weights)
    rest = sum(entry.nbytes for entry in report.skipped)
    assert payload + rest < report.bytes_after < payload + rest + graph


def test_same_input_same_bytes(digits_model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        compress(digits_model, tmp_path / name, Options(bits=3, granularity="scale"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_what_the_model_says_of_itself_is_kept(digits_model: Path, tmp_path: Path) -> None:
    compress(digits_model, tmp_path / "o.onnx", Options(method="kmeans", bits=4))
    before, after = onnx.load(digits_model), onnx.load(tmp_path / "o.onnx")
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    kept = {prop.key: prop.value for prop in after.metadata_props}
    record = json.loads(kept.pop("qqonnx"))
    assert kept == {prop.key: prop.value for prop in before.metadata_props}
    assert record["common"]["method"] == "kmeans"
    assert len(record["weights"]["classifier.0.weight"]) == 3


def test_convert_model_command(
    digits_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.argv = ["convert-model", str(digits_model), "-o", str(tmp_path / "o.onnx"), "--bits", "4"]
    sys.argv += ["--skip", "features.0*", "--bits-for", "classifier.3*=8", "--json", "--fast"]
    with pytest.raises(SystemExit) as stop:
        convert_model()
    assert not stop.value.code
    report = json.loads(capsys.readouterr().out)
    bits = {weight["name"]: weight["bits"] for weight in report["weights"]}
    assert bits["classifier.3.weight"] == 8
    assert bits["classifier.0.weight"] == 4
    assert report["bytes_after"] == (tmp_path / "o.onnx").stat().st_size


def test_commands_in_turn(
    digits_model: Path, digits_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, plain = tmp_path / "packed.onnx", tmp_path / "plain.onnx"
    code, out, _ = command(capsys, "convert", digits_model, "-o", packed, "--bits", 4)
    assert code == 0
    assert "times smaller" in out
    assert command(capsys, "restore", packed, "-o", plain)[0] == 0
    assert command(capsys, "verify", packed, plain)[0] == 0
    assert command(capsys, "verify", packed, digits_model)[0] == 1
    code, out, _ = command(capsys, "inspect", packed)
    assert "classifier.0.weight" in out
    code, out, _ = command(
        capsys, "evaluate", packed, "--data", digits_data, "--baseline", digits_model, "--json"
    )
    base, row = json.loads(out)["rows"]
    assert (base["agreement"], base["kl"], base["load_ratio"]) == (1, 0, 1)
    assert base["top1"] > 0.99
    assert row["top1"] > 0.95
    assert row["bytes"] < base["bytes"] / 6
    code, out, _ = command(capsys, "evaluate", packed, "--data", digits_data, "--csv")
    assert out.splitlines()[0].startswith("model,samples,top1")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--method", "magic"], "unknown method"),
        (
            ["--granularity", "row"],
            "--granularity: must be one of tensor, channel, scale, not 'row'",
        ),
        (["--levels", "300"], "--levels: must be 2 to 256, not 300"),
        (["--method", "pwlq-paper", "--bits", "8"], "pwlq-paper"),
        (["--skip", "nothing*"], "--skip: no weight has a name like nothing*"),
        (["--include", "position*"], "--include: no float tensor has a name like position*"),
        (["--bits-for", "classifier"], "--bits-for: must be PATTERN=N"),
        (["--min-size", "100000000"], "no weight to compress"),
        (["--bits", "4", "--levels", "6"], "--bits: would be ignored: levels is given"),
        (["--target-bits", "4", "--method", "qq"], "--method: would be ignored"),
        (["--target-bits", "4", "--bits", "3"], "--bits: would be ignored: the target decides"),
        (["--calibration", "none", "--granularity", "scale"], "--granularity: would be ignored"),
        (["--operators", "matmulnbits", "--levels", "6"], "--levels: would be ignored"),
        (["--calibration-samples", "9"], "--calibration-samples: would be ignored"),
        (["--weights", "none"], "--weights: would be ignored"),
    ],
)
def test_bad_options(
    digits_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    code, out, err = command(capsys, "convert", digits_model, "-o", tmp_path / "o.onnx", *args)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, 1_000_000])
def test_truncated_files(
    digits_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: int
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(digits_model.read_bytes()[:kept])
    for args in (["convert", bad, "-o", tmp_path / "o.onnx"], ["inspect", bad]):
        code, _, err = command(capsys, *args)
        assert code == 2
        assert str(bad) in err
        assert len(err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


def test_missing_and_foreign_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in command(capsys, "inspect", tmp_path / "no.onnx")[2]
    foreign = tmp_path / "text.onnx"
    foreign.write_text("this is no model")
    assert command(capsys, "inspect", foreign)[0] == 2
    assert command(capsys, "restore", foreign, "-o", tmp_path / "o.onnx")[0] == 2


def test_output_folder_missing(
    digits_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(capsys, "convert", digits_model, "-o", tmp_path / "no" / "o.onnx")
    assert code == 2
    assert "cannot write" in err


def test_compressing_imports_no_torch(digits_model: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, qqonnx;"
        f"qqonnx.compress(pathlib.Path({str(digits_model)!r}), pathlib.Path('o.onnx'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_help_does_not_wait_for_onnx() -> None:
    slow = "{'onnx', 'onnx_ir', 'onnxruntime', 'PIL', 'torch'}"
    code = f"import sys, qqonnx.cli; sys.exit(' '.join({slow} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr.strip(), done.returncode) == ("", 0)


def test_initializers_that_are_inputs(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,64] x, float[64,64] w) => (float[N,64] y) { y = MatMul(x, w) }"""
    path, output = build(text, {"w": normal(64, 64)}), tmp_path / "o.onnx"
    code, _, error = command(capsys, "convert", path, "-o", output)
    assert code == 2
    assert "--constant-initializers takes it as a constant" in error
    assert command(capsys, "convert", path, "-o", output, "--constant-initializers")[0] == 0


def test_large_tables_are_named(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,30,64] x) => (float[N,30,64] y) {
      a = MatMul(x, w)  t = Tanh(a)  b = Add(t, table)  y = Mul(b, small) }"""
    arrays = {"w": normal(64, 64), "table": normal(30, 64), "small": normal(64)}
    out = command(capsys, "convert", build(text, arrays), "-o", tmp_path / "o.onnx")[1]
    (line,) = (line for line in out.splitlines() if "--include can name" in line)
    assert "'table' (7,680 bytes)" in line
    assert "small" not in line

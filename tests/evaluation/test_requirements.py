"""Requirements of builds: what is met, what is missed, and what cannot be judged."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from building import Build, normal
from hypothesis import given
from hypothesis import strategies as st

from qqonnx import OptionError, Options, compress, evaluate
from qqonnx.cli import main
from qqonnx.evaluation.requirements import Requirement, missed, parse_requirement

LINEAR = """<ir_version: 8, opset_import: ["": 17]>
m (float[n,16] x) => (float[n,64] y, float[n,64] z) { y = MatMul(x, w)  z = MatMul(x, v) }"""


@pytest.fixture
def folder(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = build(LINEAR, {"w": normal(16, 64), "v": normal(16, 64, seed=1)})
    compress(model, tmp_path / "small.onnx", Options(bits=3, min_size=16, bits_for={"v": 8}))
    np.savez(tmp_path / "data.npz", x=normal(50, 16))
    (tmp_path / "gate_metrics.py").write_text("def two(session): return 2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name", "comparison", "limit"),
    [
        ("agreement>=0.97", "agreement", ">=", 0.97),
        ("agreement_low >= 97%", "agreement_low", ">=", 0.97),
        ("bytes<=3MB", "bytes", "<=", 3e6),
        ("gzip_bytes<2.5MiB", "gzip_bytes", "<", 2.5 * 2**20),
        ("boxes.cosine>.99", "boxes.cosine", ">", 0.99),
        ("kl<1e-2", "kl", "<", 0.01),
        ("word errors<=5", "word errors", "<=", 5),
        ("sqnr>=-3", "sqnr", ">=", -3),
    ],
)
def test_parsing(text: str, name: str, comparison: str, limit: float) -> None:
    required = parse_requirement(text, ["word errors"])
    assert required == Requirement(name, comparison, pytest.approx(limit))


@pytest.mark.parametrize("text", ["agreement", "agreement=1", ">=3", "kl<=much", "speed>=1", ""])
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"^require: ") as error:
        parse_requirement(text)
    assert "\n" not in str(error.value)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False, allow_infinity=False))
def test_comparisons(value: float, limit: float) -> None:
    results = {
        sign: Requirement("kl", sign, limit).is_met(value) for sign in (">=", "<=", ">", "<")
    }
    assert results[">="] is not results["<"]
    assert results["<="] is not results[">"]
    assert not any(Requirement("kl", sign, limit).is_met(math.nan) for sign in results)


def test_what_is_missed_is_named_with_its_interval_and_the_distance(folder: Path) -> None:
    result = evaluate("small.onnx", "data.npz", baseline="model.onnx")
    row = result.rows[1]
    low, high = row.intervals["agreement"]
    assert row.agreement is not None
    (line,) = missed(result, [Requirement("agreement", ">", 1.0)])
    assert line == (
        f"small.onnx: agreement is {row.agreement:.4g} (95 % interval {low:.4g} to {high:.4g}), "
        f"not > 1: missed by {1 - row.agreement:.4g}"
    )
    met = ["agreement>=0", "bytes<=1MB", "y.cosine>0", f"agreement_low<={low}", "load_ratio>0"]
    assert missed(result, [parse_requirement(text) for text in met]) == []
    # The second output has more bits.
    limit = f"cosine>={row.outputs[1].cosine}"
    assert missed(result, [parse_requirement(f"z.{limit}")]) == []
    assert len(missed(result, [parse_requirement(limit), parse_requirement(f"y.{limit}")])) == 2
    with pytest.raises(OptionError, match=r"require: small\.onnx has no top1"):
        missed(result, [parse_requirement("top1>=0.9")])


@pytest.mark.parametrize(
    ("requirements", "code", "words"),
    [
        (["bytes<=1MB", "two>=2"], 0, ""),
        (["bytes<=1kB", "two>2", "cosine>=0"], 1, "bytes is "),
        (["top1>=1"], 2, "--require: small.onnx has no top1"),
        (["three>=1"], 2, "--require: three is none of "),
    ],
)
def test_exit_codes(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    requirements: list[str],
    code: int,
    words: str,
) -> None:
    line = "evaluate small.onnx --data data.npz --baseline model.onnx --metric gate_metrics:two"
    flags = [word for text in requirements for word in ("--require", text)]
    monkeypatch.setattr(sys, "argv", ["qqonnx", *line.split(), "--json", *flags])
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code or 0) == code
    out, err = capsys.readouterr()
    assert words in err
    assert err.count("\n") == (code > 0)
    if code < 2:
        assert len(json.loads(out)["missed"]) == 2 * code


def test_a_file_must_be_compressed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, code in (("small.onnx", 0), ("model.onnx", 1)):
        monkeypatch.setattr(sys, "argv", ["qqonnx", "inspect", file, "--require", "compressed"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert (stop.value.code or 0) == code
        err = capsys.readouterr().err
        assert ("requirement missed: model.onnx: not compressed" in err) == bool(code)

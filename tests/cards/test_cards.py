"""Model cards: what a reader has to know is in them, and true."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest
from repositories import encoder_decoder
from sweep_rows import done, write_results

from qqonnx import __version__, inspect
from qqonnx.cli import main


def command(*arguments: object) -> str:
    """Run a command that succeeds, and return it as a reader would type it."""
    sys.argv = ["qqonnx", *map(str, arguments)]
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    return " ".join(sys.argv)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_card_of_a_file(digits_model: Path, digits_data: Path, tmp_path: Path) -> None:
    small, card = tmp_path / "small.onnx", tmp_path / "CARD.md"
    typed = command("convert", digits_model, "-o", small, "--bits", 4, "--card", card, "-q")
    text = card.read_text()
    assert typed in text
    assert f"qqonnx {__version__}" in text
    for file in (digits_model, small):
        size = f"{file.stat().st_size:,}"
        assert f"| {file.name} | {size} | `{digest(file)}` |" in text
    for levels in {weight.levels for weight in inspect(small).weights}:
        assert f" {levels} levels (" in text
    ratio = digits_model.stat().st_size / small.stat().st_size
    assert f"{ratio:.2f} times smaller" in text
    assert re.search(r"\| logits \| \d+ \| [\d.]+ \| [\d.]+ \| [\d.]+ \| 0\.9\d+ \|", text)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(code.replace('"small.onnx"', repr(str(small))), {})


def test_card_of_a_folder(tmp_path: Path) -> None:
    repository, out = encoder_decoder(tmp_path / "repository"), tmp_path / "out"
    card = out / "README.md"
    for _ in range(2):  # the second time nothing has to be compressed
        typed = command("convert", repository, "-o", out, "--bits", 8, "--card", card, "-q")
        text = card.read_text()
        assert typed in text
        for name in ("encoder_model.onnx", "encoder_model.onnx_data", "decoder_model_merged.onnx"):
            assert f"`{digest(out / 'onnx' / name)}`" in text
        assert "onnx/encoder_model.onnx: last_hidden_state" in text


def test_card_of_an_evaluation(digits_model: Path, digits_data: Path, tmp_path: Path) -> None:
    small, card = tmp_path / "small.onnx", tmp_path / "CARD.md"
    command("convert", digits_model, "-o", small, "--bits", 6, "-q")
    typed = command(
        "evaluate", small, "--data", digits_data, "--baseline", digits_model,
        "--limit", 40, "--card", card, "-q",
    )  # fmt: skip
    text = card.read_text()
    assert typed in text
    assert f"`{digest(small)}`" in text
    assert f"`{digest(digits_model)}`" in text
    assert "agreement %" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| small.onnx | 40 |"))
    assert row.count("|") > 8


def test_a_card_that_cannot_be_written(
    digits_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "missing" / "CARD.md"
    sys.argv = ["qqonnx", "convert", str(digits_model), "-o", str(tmp_path / "o.onnx"), "--card"]
    sys.argv += [str(card), "-q"]
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert f"{card}: cannot write" in capsys.readouterr().err


def test_card_of_a_sweep(tmp_path: Path) -> None:
    rows = [
        done("float32", 6_000_000, 0.95),
        done("qq", 900_000, 0.9, bits=4.0, granularity="scale", file_sha256="ab" * 32),
        done("target", 800_000, 0.93, budget="4.2 bits", metrics='{"f1": {"value": 0.875}}'),
        {**done("uq", 700_000, 0.1, bits=3.0), "status": "failed"},
    ]
    results, card = write_results(tmp_path / "sweep.db", rows), tmp_path / "CARD.md"
    typed = command("sweep", results, "--card", card, "-q")
    text = card.read_text()
    assert typed in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    order = [line.split(" | ")[0] for line in lines[:5]]
    assert order == ["| how", "| ---", "| float32", "| qq, 4 bits, one scale per channel",
                     "| 4.2 bits"]  # fmt: skip
    assert "| 900,000 |" in text
    assert "| 90.00 |" in text
    assert "0.875" in text
    assert f"`{'ab' * 32}`" in text
    assert "uq" not in text


def test_no_card_of_a_sweep_without_a_finished_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_results(tmp_path / "s.db", [{**done("uq", 1, 0.1), "status": "failed"}])
    sys.argv = ["qqonnx", "sweep", str(results), "--card", str(tmp_path / "CARD.md")]
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "no run is done" in capsys.readouterr().err
    assert not (tmp_path / "CARD.md").exists()

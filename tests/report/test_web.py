"""The report in headless Chromium: no network access, no errors, and full keyboard control."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sweep_rows import codebook, small_sweep, write_results

from qqonnx.report.page import LARGEST, write_report

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PLAYWRIGHT = HERE.parents[1] / "examples" / "web" / "node_modules" / "playwright-core"

pytestmark = [
    pytest.mark.web,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs node"),
    pytest.mark.skipif(not PLAYWRIGHT.is_dir(), reason="needs `npm ci` in examples/web"),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Chromium"),
]

ROWS = [*small_sweep(), codebook("kmeans", 3, 0.3, granularity="scale")]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("report")
    page = folder / "report.html"
    write_report(write_results(folder / "results.sqlite", ROWS), page)
    assert page.stat().st_size < LARGEST
    command = ["node", str(HERE / "report_page.mjs"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_nothing_is_fetched_and_nothing_fails(observed: dict[str, Any]) -> None:
    assert observed["requests"] == []
    assert observed["errors"] == []


def test_each_column_sorts_by_keyboard(observed: dict[str, Any]) -> None:
    heads = observed["heads"]
    assert {"Run", "Method", "Bits", "Size, MB", "Top-1, %", "KL, nats"} <= set(heads)
    for head in heads:
        column = observed["sorted"][head]
        assert set(column["directions"]) == {"ascending", "descending"}
        assert column["others"] == 1
        assert column["ring"] not in ("", "none")
        assert column["said"] == f"9 of 9 runs, sorted by {head}, {column['directions'][1]}"
        for direction, cells in zip(
            column["directions"], (column["first"], column["second"]), strict=True
        ):
            full = [cell for cell in cells if cell]
            assert cells == full + [""] * (len(cells) - len(full)), "empty cells come last"
            if head not in ("Run", "Method", "Granularity"):
                full = [float(cell) for cell in full]
            assert full == sorted(full, reverse=direction == "descending")
    assert observed["sorted"]["Top-1, %"]["directions"][0] == "descending"
    sizes = [f"{row['file_bytes'] / 1e6:.3f}" for row in ROWS]
    assert sorted(observed["sorted"]["Size, MB"]["first"]) == sorted(sizes)


def test_filters(observed: dict[str, Any]) -> None:
    method, frontier = observed["filtered"]["method"], observed["filtered"]["frontier"]
    assert len(method["runs"]) == 4
    assert all(run.startswith("kmeans") for run in method["runs"])
    assert method["said"].startswith("4 of 9 runs")
    assert {run.split(" ★")[0] for run in frontier["runs"]} == {
        "kmeans 2 bits", "kmeans 4 bits", "kmeans 8 bits"
    }  # fmt: skip


def test_marks_have_tooltips_and_link_to_layers(observed: dict[str, Any]) -> None:
    assert observed["open"] == ["run-4"], "the one to pick"
    assert observed["tip"] == "kmeans 2 bits: 50.0 %, 0.405 MB"
    assert observed["opened"] == {"at": "#run-3", "focus": "kmeans 2 bits 0.405 MB, 50.0 %"}
    assert observed["layer"] == "features.7.weight, 16×16×3×3: 2 bits, 4 levels, error 27.23 %"


def test_light_and_dark(observed: dict[str, Any]) -> None:
    colors = observed["colors"]
    light, dark = colors["light"], colors["dark"]
    assert light != dark
    for system in ("light", "dark"):
        assert colors[f"{system}, switched to light"] == light
        assert colors[f"{system}, switched to dark"] == dark
    assert colors["remembered"] == light


def test_fits_a_phone(observed: dict[str, Any]) -> None:
    assert observed["overflow"] <= 0


def test_page_is_complete_without_scripts(observed: dict[str, Any]) -> None:
    assert observed["plain"] == len(ROWS)

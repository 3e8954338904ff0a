"""Methods of other packages: the documented example works, broken ones are named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qqonnx.codebooks import METHODS, assign, fit, method_named
from qqonnx.errors import QqonnxError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "plugins.md"


def install(folder: Path, package: str, code: str, entry: str) -> None:
    """Put a package on `folder` as pip would: a module, and its metadata beside it."""
    (folder / f"{package}.py").write_text(code)
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[qqonnx.codebooks]\n{entry}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def documented() -> tuple[str, str]:
    text = DOCS.read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    entry = re.search(
        r"```toml\n\[project.entry-points.\"qqonnx.codebooks\"\]\n(.*?)```", text, re.S
    )
    assert code is not None
    assert entry is not None
    return code[1], entry[1].replace('"', "")


def test_the_documented_example_is_ten_lines_and_works(
    site: Path, digits_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, entry = documented()
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    install(site, "clipped", code, entry)
    values = np.random.default_rng(0).standard_t(3, 5000)
    codebook = fit(values, "clipped", 16)
    # The fifth of 5,000 values is the first at which a thousandth is reached.
    low, high = np.sort(values)[[4, 4994]]
    np.testing.assert_allclose(codebook.levels, np.linspace(low, high, 16), rtol=1e-9)
    assert assign(values, codebook).max() == 15
    for scale in (2.0**-90, 2.0**90):
        np.testing.assert_allclose(
            fit(values * scale, "clipped", 16).levels, codebook.levels * scale, rtol=1e-12
        )
    # The command line, in a process of its own.
    output = site / "small.onnx"
    command = "from qqonnx.cli import convert_model; convert_model()"
    arguments = [str(digits_model), "-o", str(output), "--method", "clipped", "--bits", "6", "-q"]
    path = os.pathsep.join([str(site), str(ROOT)])
    subprocess.run(
        [sys.executable, "-c", command, *arguments],
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert output.stat().st_size < digits_model.stat().st_size / 4


GOOD = """
import numpy as np
from qqonnx.codebooks import Codebook, Method, nearest

def fit(sample, levels):
    {body}

METHOD = Method("{name}", "a test's", fit)
"""

BROKEN = {
    "import nowhere_to_be_found": "cannot be loaded: ModuleNotFoundError",
    "METHOD = 3": "is a int, not a Method",
    GOOD.format(name="other", body="return nearest(np.zeros(1))"): "has the name 'other'",
    GOOD.format(name="broken", body="return 1 / 0"): "failed: ZeroDivisionError",
    GOOD.format(name="broken", body="return np.zeros(3)"): "returns a ndarray, not a Codebook",
    GOOD.format(
        name="broken", body="return nearest(np.arange(99.0))"
    ): "shape (99,) instead of 1 to 4 levels",
    GOOD.format(name="broken", body="return nearest(np.array([2.0, 1.0]))"): "not ascending",
    GOOD.format(name="broken", body="return nearest(np.array([0.0, np.nan]))"): "not finite",
    GOOD.format(name="broken", body="return nearest(np.zeros(2, np.float32))"): "float64",
    GOOD.format(
        name="broken", body="return Codebook(np.zeros(3), np.zeros(3))"
    ): "thresholds of shape (3,) for 3 levels",
}


@pytest.mark.parametrize("code", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_package_is_named_in_one_line(code: str, site: Path) -> None:
    # Python keeps modules by name: every case has its own.
    package = f"broken{list(BROKEN).index(code)}"
    install(site, package, code, f"broken = {package}:METHOD")
    with pytest.raises(QqonnxError) as raised:
        fit(np.arange(9.0), "broken", 4)
    message = str(raised.value)
    assert message.startswith(f"method 'broken' of {package} ({package}:METHOD) ")
    assert BROKEN[code] in message
    assert "\n" not in message


def test_two_packages_may_not_offer_one_name(site: Path) -> None:
    code = GOOD.format(name="twice", body="return nearest(np.zeros(1))")
    for package in ("first_pkg", "second_pkg"):
        install(site, package, code, f"twice = {package}:METHOD")
    with pytest.raises(QqonnxError, match=r"'twice' is offered by (first|second)_pkg .* and "):
        method_named("twice")


def test_unknown_names_list_the_packages_methods_without_importing_them(site: Path) -> None:
    install(site, "untouched", "raise SystemExit", "untouched = untouched:METHOD")
    with pytest.raises(QqonnxError, match=r"unknown method 'x'; known: uq, .*kmeans, untouched"):
        method_named("x")
    assert "untouched" not in sys.modules


def test_built_in_methods_cannot_be_replaced(site: Path) -> None:
    install(site, "usurper", "raise SystemExit", "kmeans = usurper:METHOD")
    assert method_named("kmeans") is METHODS["kmeans"]


def test_help_lists_every_method() -> None:
    command = "from qqonnx.cli import convert_model; convert_model()"
    shown = subprocess.run(
        [sys.executable, "-c", command, "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400", "TERMINAL_WIDTH": "400"},
    ).stdout
    assert ", ".join(METHODS) in " ".join(shown.split())

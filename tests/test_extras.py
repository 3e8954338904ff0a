"""Optional packages that are missing or broken: the error is one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qqonnx.errors import QqonnxError
from qqonnx.extras import import_extra


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file `__init__.py` of an importable package called `fake_package`."""
    file = tmp_path / "fake_package" / "__init__.py"
    file.parent.mkdir()
    file.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fake_package", raising=False)
    return file


def test_installed(package: Path) -> None:
    package.write_text("VALUE = 3")
    assert import_extra("fake_package", "export").VALUE == 3


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        ("import fake_dependency", "fake_dependency"),
        ("import fake_dependency.part", "fake_dependency"),
    ],
)
def test_missing_dependency(package: Path, content: str, missing: str) -> None:
    package.write_text(content)
    with pytest.raises(QqonnxError) as caught:
        import_extra("fake_package", "export")
    assert str(caught.value) == f'{missing} is not installed: run pip install "qqonnx[export]"'


@pytest.mark.parametrize("module", ["fake_missing", "fake_missing.part"])
def test_missing(module: str) -> None:
    with pytest.raises(
        QqonnxError, match=r'^fake_missing is not .* pip install "qqonnx\[train\]"$'
    ):
        import_extra(module, "train")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "RuntimeError: operator torchvision::nms does not exist",
        ),
        ("raise OSError('libfake.so: cannot open\\nmore')", "OSError: libfake.so: cannot open"),
        ("from json import absent", "ImportError: cannot import name 'absent' from 'json'"),
        ("import json.absent", "ModuleNotFoundError: No module named 'json.absent'"),
    ],
    ids=["mismatch", "library", "name", "submodule"],
)
def test_broken(package: Path, content: str, reason: str) -> None:
    package.write_text(content)
    with pytest.raises(QqonnxError) as caught:
        import_extra("fake_package", "export")
    message = str(caught.value)
    assert message.startswith(f"fake_package is installed but cannot be imported ({reason}")
    assert message.endswith('run pip install --force-reinstall "qqonnx[export]"')


def test_broken_torchvision_ends_the_command(tmp_path: Path) -> None:
    """As where torchvision was built for another PyTorch than the one installed."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from qqonnx.cli import main; main()",
            "export",
            "resnet18",
            "-o",
            "m.onnx",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: torchvision is installed but cannot be imported (RuntimeError: ")
    assert [path.name for path in tmp_path.iterdir()] == ["torchvision"]

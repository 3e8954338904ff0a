"""What users see of the package, and the shape of its modules."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from building import package_modules

import qqonnx
import qqonnx.codebooks

ROOT = Path(__file__).parent.parent
FUNCTIONS = ("compress", "compress_folder", "evaluate", "export", "inspect", "restore", "verify")

TORCH_MODULES = (
    "qqonnx.finetune.losses",
    "qqonnx.finetune.operators",
    "qqonnx.finetune.loop",
)
"""Modules (and packages) that import PyTorch at once: others import them inside functions."""


def test_names() -> None:
    assert sorted(qqonnx.__all__) == [
        "Calibration",
        "OptionError",
        "Options",
        "QqonnxError",
        "Target",
        "__version__",
        "compress",
        "compress_folder",
        "evaluate",
        "export",
        "inspect",
        "restore",
        "verify",
    ]
    assert all(hasattr(qqonnx, name) for name in qqonnx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        qqonnx.quantise  # noqa: B018


def test_names_of_codebooks() -> None:
    assert sorted(qqonnx.codebooks.__all__) == [
        "Atoms",
        "Codebook",
        "Distortion",
        "MAX_LEVELS",
        "METHODS",
        "Method",
        "Sample",
        "Weights",
        "approximate_errors",
        "approximate_levels",
        "as_scales",
        "assign",
        "distortion",
        "extremes",
        "fit",
        "index_entropy",
        "method_named",
        "nearest",
        "on_grid",
        "sample_of",
        "scale_groups",
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented(name: str) -> None:
    function = getattr(qqonnx, name)
    text = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:"):
        assert f"\n{section}\n" in text, section
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in text, argument


@pytest.mark.parametrize("name", ["Calibration", "Options", "Target"])
def test_fields_are_documented(name: str) -> None:
    kind = getattr(qqonnx, name)
    text = inspect.getdoc(kind) or ""
    for field in kind.__dataclass_fields__:
        assert f"\n    {field}: " in text, field


def test_import_is_light() -> None:
    code = "import sys, qqonnx; print(sorted({'numpy', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_needs_torch() -> None:
    """Compressing a file never imports PyTorch: with it out of reach all other modules import."""
    names = [name for name in package_modules() if not name.startswith(TORCH_MODULES)]
    code = (
        "import importlib, sys\n"
        "sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", package_modules())
def test_modules(name: str) -> None:
    file = ROOT / Path(*name.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    text = file.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 300


@pytest.mark.parametrize(
    "script", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.name
)
def test_scripts(script: Path) -> None:
    text = script.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 300

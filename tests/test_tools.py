"""The scripts in tools/: each imports, so that a change of the package cannot break it unseen."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parent.parent / "tools"


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("qqonnx"):
            raise
        pytest.skip(str(error))
    return module


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("*.py")))
def test_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(name, monkeypatch).__doc__


@pytest.mark.parametrize("tool", ["bench_stages", "bench_calibration"])
def test_timed_functions_exist(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tools time functions by their names."""
    for names in loaded(tool, monkeypatch).STAGES.values():
        for name in names:
            module, function = f"qqonnx.{name}".rsplit(".", 1)
            assert callable(getattr(importlib.import_module(module), function)), name

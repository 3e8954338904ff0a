"""The documentation: links resolve, commands and code run, the site builds."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from building import normal, package_modules, tensor_of
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from typer.main import get_command
from typer.testing import CliRunner

from qqonnx import Options, compress, restore
from qqonnx.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [path for place in (".", "docs", "models", "examples") for path in ROOT.glob(f"{place}/*.md")],
    key=lambda path: path.relative_to(ROOT),
)
SCRIPT = ROOT / "examples" / "shrink_your_model.py"

RUN = ("convert", "inspect", "evaluate", "verify", "restore")
"""Commands that are run and not only parsed."""

NOT_RUN = (
    "--simplify",  # needs an extra
    "--finetune",  # needs an extra
    *(
        f" {name}:" for name in ("ocr", "retrieval", "voice_activity", "detection")
    ),  # need other packages
    "--method clipped",  # test_codebooks_plugins.py installs and runs it
)

CODE = ("", "sh", "yaml")
"""Languages of code blocks that hold commands; those of workflows follow `- run:`."""

CLASSIFIER = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,3,64,64] input) => (float[N,10] logits) {
  c = Conv<strides = [16, 16]>(input, w)  r = Relu(c)  f = Flatten(r)  logits = Gemm(f, g, b)
}"""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text("utf-8"))


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the command blocks of a page."""
    for token in tokens(path):
        if token.type == "code_block" or (token.type == "fence" and token.info in CODE):
            for line in token.content.replace("\\\n", " ").splitlines():
                line = line.strip().removeprefix("- run: ")
                if re.match(r"(\S*/)?(convert-model|qqonnx|python|pip|make|\.venv)\b", line):
                    yield shlex.split(line, comments=True)


ALL_COMMANDS = [(name_of(page), words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links(page: Path) -> None:
    def anchors(target: Path) -> set[str]:
        found = tokens(target)
        headings = [found[n + 1].content for n, t in enumerate(found) if t.type == "heading_open"]
        return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}

    inside = [child for token in tokens(page) for child in token.children or ()]
    links = [str(token.attrs["href"]) for token in inside if token.type == "link_open"]
    links += [str(token.attrs["src"]) for token in inside if token.type == "image"]
    for link in links:
        if re.match(r"https://", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_commands_are_found() -> None:
    assert len(ALL_COMMANDS) > 40
    assert {"convert-model", "qqonnx", "python", "pip", "make"} <= {w[0] for _, w in ALL_COMMANDS}


@pytest.mark.parametrize(
    ("page", "words"), ALL_COMMANDS, ids=[f"{p}: {' '.join(w)[:60]}" for p, w in ALL_COMMANDS]
)
def test_command_is_understood(page: str, words: list[str]) -> None:
    """The options, scripts and make targets exist, also those that are too costly to run."""
    program, *arguments = words
    if program in ("convert-model", "qqonnx"):
        verb, *rest = arguments if program == "qqonnx" else ["convert", *arguments]
        get_command(app).commands[verb].make_context(verb, rest)  # type: ignore[attr-defined]
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M)
    elif program == "pip":
        extras = re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", " ".join(arguments))))
        assert set(extras) <= set(metadata("qqonnx").get_all("Provides-Extra", []))
    elif program == "python" and arguments[0] != "-m":
        source = (ROOT / arguments[0]).read_text("utf-8")
        for flag in (word for word in arguments if word.startswith("--")):
            assert f'"{flag}"' in source, flag


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the documentation names: small models and images."""
    folder = tmp_path_factory.mktemp("docs")
    model = onnx.parser.parse_model(CLASSIFIER)
    weights = {"w": normal(16, 3, 16, 16), "g": normal(256, 10, seed=1), "b": normal(10, seed=2)}
    for name, array in weights.items():
        model.graph.initializer.append(tensor_of(0.05 * array, name))
    for name in ("model", "resnet50", "lite0"):
        onnx.save(model, folder / f"{name}.onnx")
    for name in ("small", "other", "simple", "best"):
        compress(folder / "model.onnx", folder / f"{name}.onnx", Options(bits=4))
    integer = compress(folder / "model.onnx", options=Options(bits=8, compute="int8")).model
    restore(integer, folder / "int8.onnx")
    (folder / "REPOSITORY" / "onnx").mkdir(parents=True)
    onnx.save(model, folder / "REPOSITORY" / "onnx" / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    for images in ("IMAGES", "images", "calibration-images", "imagenette2/val"):
        for number, image in enumerate(pixels):
            file = folder / images / str(number % 10) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    np.save(folder / "inputs.npy", normal(16, 3, 64, 64))
    blocks = [token for token in tokens(ROOT / "docs" / "evaluate.md") if token.info == "python"]
    (folder / "my_metrics.py").write_text("".join(token.content for token in blocks[:2]))
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_run(page: Path, inside: Path) -> None:
    for words in commands(page):
        if words[0] == "convert-model":
            words = ["qqonnx", "convert", *words[1:]]
        line = " ".join(words)
        offline = len(words) > 2 and words[2].endswith((".onnx", "REPOSITORY"))
        if words[0] != "qqonnx" or words[1] not in RUN or not offline:
            continue
        if any(option in line for option in NOT_RUN):
            continue
        result = CliRunner().invoke(app, words[1:])
        # `verify` exits with 1 if the files differ, `--require` if a model misses something.
        expected = (0, 1) if words[1] == "verify" or "--require" in words else (0,)
        assert result.exit_code in expected, f"{line}: {result.exception or result.output}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_runs(page: Path, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A block that cannot run here is marked: <!-- skip: next "reason" -->
    document = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(page)
    document.namespace.update(
        np=np,
        onnxruntime=onnxruntime,
        work=inside,
        model=inside / "model.onnx",
        calibration_images=inside / "IMAGES",
        test_data=inside / "IMAGES",
        torch_installed=find_spec("torch") is not None,
    )
    for example in document.examples():
        example.evaluate()


def test_tutorial_is_the_script() -> None:
    script = SCRIPT.read_text("utf-8")
    blocks = [
        token.content
        for token in tokens(ROOT / "docs" / "tutorial.md")
        if token.type == "fence" and token.info == "python"
    ]
    assert len(blocks) > 3
    places = [script.index(block) for block in blocks]
    assert places == sorted(places)


@pytest.mark.slow
def test_script(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    float_bytes = (ROOT / "models" / "digits_mobilenet_v3_small.onnx").stat().st_size
    (best,) = tmp_path.rglob("best.onnx")
    assert best.stat().st_size <= float_bytes / 10
    (agreement,) = re.findall(r"best.onnx: .*, agreement ([\d.]+)%", done.stdout)
    assert float(agreement) > 97


@pytest.mark.parametrize("module", package_modules())
def test_docstring_examples(module: str) -> None:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert doctest.testmod(loaded).failed == 0


def test_site(tmp_path: Path) -> None:
    """The site builds without a warning, and its pages load nothing from other hosts."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        html = page.read_text("utf-8")
        assert not re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//", html)
        assert not re.findall(r"<link[^>]*\shref=\"(?:https?:)?//(?![^\"]*\"[^>]*canonical)", html)
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text("utf-8"))

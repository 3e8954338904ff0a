"""The demo page in headless Chromium, and the same files in Node, against Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from qqonnx import Options, compress
from qqonnx.config import Calibration, Target
from qqonnx.inputs.preprocessing import apply, for_model

WEB = Path(__file__).parent.parent / "examples" / "web"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

pytestmark = [
    pytest.mark.web,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs node"),
    pytest.mark.skipif(
        not (WEB / "node_modules").is_dir(), reason="needs `npm ci` in examples/web"
    ),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(WEB)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def node(*arguments: object) -> Any:
    command = ["node", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=WEB, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def python(model: Path, inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Chromium")
@pytest.mark.skipif(not (WEB / "models").is_dir(), reason="needs examples/web/build.py run")
def test_page(served: str, digits_model: Path, digits_data: Path, tmp_path: Path) -> None:
    from PIL import Image

    with np.load(digits_data) as arrays:
        images = arrays["images"][:10]
    listed = tmp_path / "images.json"
    listed.write_text(json.dumps(images.reshape(len(images), -1).tolist()))
    screenshots = os.environ.get("SCREENSHOTS")
    found = node("test/page.mjs", served, listed, *([screenshots] if screenshots else []))
    assert found["errors"] == []
    assert found["elsewhere"] == []

    session = ort.InferenceSession(digits_model, providers=["CPUExecutionProvider"])
    steps, _ = for_model(session.get_modelmeta().custom_metadata_map, 64)
    inputs = np.stack([apply(Image.fromarray(image), steps) for image in images])
    np.testing.assert_allclose(
        np.array(found["inputs"]).reshape(inputs.shape), inputs, atol=1.01 / 127.5
    )
    seen = np.array(found["inputs"], np.float32).reshape(inputs.shape)
    for bits, answers in found["logits"].items():
        for which, model in (("float", "float"), ("small", bits)):
            logits = np.array([answer[which] for answer in answers])
            expected = python(WEB / "models" / f"{model}.onnx", seen)
            np.testing.assert_allclose(logits, expected, atol=1e-3 * np.abs(expected).max())

    sizes = {"float": WEB / "models" / "float.onnx", "small": WEB / "models" / "4.onnx"}
    assert found["sent"] == {name: path.stat().st_size for name, path in sizes.items()}
    for card in (*found["mouse"].values(), *found["keyboard"].values()):
        if isinstance(card, dict):
            assert card["bytes"].endswith(" MB")
            assert card["first"].endswith(" s")
    assert found["mouse"]["float"]["digit"] == found["mouse"]["small"]["digit"] == "4"
    assert "Both read 4" in found["mouse"]["verdict"]
    assert found["keyboard"]["float"]["digit"] == found["keyboard"]["small"]["digit"] == "1"


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Chromium")
@pytest.mark.skipif(
    not (WEB / "models" / "minilm").is_dir(),
    reason="needs examples/web/build.py run with the extra loaders",
)
def test_sentence_search(served: str) -> None:
    """transformers.js in the page ranks as each file does in Python, and shows bytes and times."""
    screenshots = os.environ.get("SCREENSHOTS")
    found = node("test/search.mjs", served, *([f"{screenshots}-search"] if screenshots else []))
    assert found["errors"] == []
    assert found["elsewhere"] == []
    minilm = WEB / "models" / "minilm"
    sentences = json.loads((minilm / "sentences.json").read_text("utf-8"))
    assert len(sentences) > 100
    for at in ("slow", "faster", "asked"):
        for kind in ("float", "int8", "small"):
            card = found[at][kind]
            (file,) = (minilm / kind / "onnx").glob("*.onnx")
            vectors = np.fromfile(minilm / kind / "vectors.bin", np.float32).reshape(-1, 384)
            likeness = vectors @ np.array(card["vector"], np.float32)
            assert np.diff(likeness[card["order"]]).max() < 1e-5
            assert card["shown"] == [sentences[place] for place in card["order"][:8]]
            assert card["sent"] == file.stat().st_size
            assert card["texts"]["bytes"] == f"{file.stat().st_size / 1e6:.1f} MB"
        cosine = np.dot(found[at]["float"]["vector"], found[at]["small"]["vector"])
        assert cosine > 0.97
        assert "times fewer bytes" in found[at]["verdict"]
    # The wire alone takes so long; a faster machine changes nothing about that.
    for at, speed in (("slow", 10), ("faster", 50)):
        for kind in ("float", "int8", "small"):
            card = found[at][kind]
            assert card["seconds"] > 8e-6 * card["sent"] / speed
    assert found["asked"]["float"]["order"] != found["faster"]["float"]["order"]


def compare_in_node(models: list[Path], folder: Path) -> None:
    """Assert that onnxruntime-node and onnxruntime-web's wasm answer as Python does."""
    inputs = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    entry = {"name": "input", "shape": inputs.shape, "data": inputs.ravel().tolist()}
    (folder / "input.json").write_text(json.dumps(entry))
    found = node("test/run.mjs", folder / "input.json", *models)
    assert set(found) == {"node", "wasm"}
    for engine, answers in found.items():
        for model, outputs in zip(models, answers, strict=True):
            expected = python(model, inputs)
            actual = np.array(outputs).reshape(expected.shape)
            error = np.abs(actual - expected).max() / np.abs(expected).max()
            assert error < 1e-3, (engine, model.name)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
def test_every_bit_width_in_node(digits_model: Path, tmp_path: Path, granularity: str) -> None:
    form = partial(Options, granularity=granularity, method="uq")
    forms = {f"{bits} bits": form(bits=bits) for bits in range(1, 9)}
    forms |= {f"{levels} levels": form(levels=levels) for levels in (3, 6, 40)}
    models = [tmp_path / f"{name}.onnx" for name in forms]
    for model, options in zip(models, forms.values(), strict=True):
        compress(digits_model, model, options)
    compare_in_node(models, tmp_path)


def test_other_forms_in_node(digits_model: Path, digits_data: Path, tmp_path: Path) -> None:
    """Levels allotted weight by weight, with biases as float16; and ONNX Runtime's own operator."""
    mixed = tmp_path / "mixed.onnx"
    calibration = Calibration(digits_data, samples=32, target=Target(bits=4.4))
    report = compress(digits_model, mixed, calibration=calibration)
    assert len({weight.levels for weight in report.weights}) > 3
    models = [mixed]
    for bits in (4, 8):
        models.append(tmp_path / f"matmulnbits {bits}.onnx")
        compress(digits_model, models[-1], Options(bits=bits, operators="matmulnbits"))
    compare_in_node(models, tmp_path)

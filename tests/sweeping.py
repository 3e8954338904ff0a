"""A small model, a data set, and codebook methods that wait or die, for tests of sweeps."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from building import normal, tensor_of

ROOT = Path(__file__).parent.parent

PERCEPTRON = """
<ir_version: 8, opset_import: ["" : 18]>
small (float[n, 3, 8, 8] x) => (float[n, 10] y) {
    flat = Flatten<axis = 1> (x)
    hidden = Gemm (flat, first, bias)
    active = Relu (hidden)
    y = Gemm (active, second)
}
"""

METHODS = '''
import os
import time
from pathlib import Path

import numpy as np
from qqonnx.codebooks import Method, nearest


def begun(name):
    """Record this process, and return how many others have called this."""
    file = Path(os.environ["QQONNX_TEST_FOLDER"]) / name
    found = file.read_text().split() if file.exists() else []
    if str(os.getpid()) not in found:
        with file.open("a") as log:
            log.write(f"{os.getpid()}\\n")
    return len(set(found) - {str(os.getpid())})


def uniform(sample, levels):
    return nearest(np.linspace(sample.low, sample.high, levels))


def waits(sample, levels):
    if begun("waits") == 0:
        time.sleep(600)
    return uniform(sample, levels)


def dies_twice(sample, levels):
    if begun("dies-twice") < 2:
        os._exit(1)
    return uniform(sample, levels)


def dies(sample, levels):
    begun("dies")
    os._exit(1)


WAITS = Method("waits", "waits the first time", waits)
DIES_TWICE = Method("dies-twice", "dies twice", dies_twice)
DIES = Method("dies", "dies", dies)
'''


def small_sweep(folder: Path, text: str = "", images: int = 40) -> Path:
    """Write a model, images and sweep.toml; `text` is appended to the latter."""
    model = onnx.parser.parse_model(PERCEPTRON)
    arrays = {
        "first": normal(192, 48) / 8,
        "bias": normal(48, seed=1),
        "second": normal(48, 10, seed=2),
    }
    model.graph.initializer.extend(tensor_of(array, name) for name, array in arrays.items())
    entry = model.metadata_props.add()
    entry.key = "qqonnx.preprocessing"
    entry.value = (
        '{"resize":8,"crop":8,"interpolation":"bilinear","mean":[0.5,0.5,0.5],"std":[0.2,0.2,0.2]}'
    )
    onnx.save(model, folder / "small.onnx")
    random = np.random.default_rng(0)
    np.savez(
        folder / "images.npz",
        images=random.integers(0, 256, (images, 8, 8, 3), np.uint8),
        labels=random.integers(0, 10, images),
    )
    config = folder / "sweep.toml"
    config.write_text('models = ["small.onnx"]\ndatasets = ["images.npz"]\n' + text, "utf-8")
    return config


def environment(folder: Path) -> dict[str, str]:
    """Install the methods above into `folder` as pip would; return the environment to use them."""
    site = folder / "site"
    metadata = site / "awkward-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "awkward.py").write_text(METHODS)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: awkward\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[qqonnx.codebooks]\nwaits = awkward:WAITS\ndies-twice = awkward:DIES_TWICE\n"
        "dies = awkward:DIES\n"
    )
    paths = [str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "QQONNX_TEST_FOLDER": str(folder),
    }


def begin(config: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start `qqonnx sweep`."""
    command = "from qqonnx.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", command, "sweep", str(config), *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait until the process has succeeded, and return its output."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output, errors


def rows_of(path: Path) -> dict[tuple[str, float | None], dict[str, Any]]:
    """Return the rows by method and bits, read without qqonnx."""
    store = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    store.row_factory = sqlite3.Row
    try:
        found = [dict(row) for row in store.execute("SELECT * FROM runs")]
    finally:
        store.close()
    return {(row["method"], row["bits"]): row for row in found}


def wait_for_file(path: Path, process: subprocess.Popen[str]) -> str:
    """Wait until a file has text, and return the text."""
    for _ in range(3000):
        if path.exists() and (text := path.read_text()):
            return text
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError(f"{path} did not come")

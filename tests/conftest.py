"""Fixtures and settings of all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from building import Build, tensor_of
from hypothesis import settings

# No test judges how long an example takes.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

DIGITS = Path(__file__).parent.parent / "models" / "digits_mobilenet_v3_small.onnx"
DIGITS_TEST = DIGITS.with_name("digits_test.npz")


@pytest.fixture(scope="session")
def digits_model() -> Path:
    return DIGITS


@pytest.fixture(scope="session")
def digits_data() -> Path:
    return DIGITS_TEST


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function: ONNX text and arrays for its initializers -> a file."""

    def write(text: str, arrays: dict[str, np.ndarray], name: str = "model.onnx") -> Path:
        model = onnx.parser.parse_model(text)
        for key, array in arrays.items():
            model.graph.initializer.append(tensor_of(array, key))
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write

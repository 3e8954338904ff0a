"""Baselines that codebooks are compared with: other ways to store a model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qqonnx.calibration.inputs import CalibrationInputs


@dataclass(frozen=True)
class Baseline:
    """A way to store a model that is not qqonnx's.

    Attributes:
        name: its name in sweep.toml.
        bits: supported bits per weight; empty for floats.
        module: the module that contains `function`.
        function: name of a function that takes a `BaselineRequest` and writes the model.
        package: a package that it needs beyond the dependencies of qqonnx.
        calibrated: whether it needs calibration inputs.
        at_each_bits: whether it runs at each of the grid's bit-widths that it supports, or once.
    """

    name: str
    bits: tuple[int, ...]
    module: str
    function: str
    package: str | None = None
    calibrated: bool = False
    at_each_bits: bool = False

    @property
    def make(self) -> Callable[[BaselineRequest], dict[str, str]]:
        """The function; it returns notes for the column `options` of the results."""
        function: Callable[[BaselineRequest], dict[str, str]]
        function = getattr(import_module(self.module), self.function)
        return function


@dataclass(frozen=True)
class BaselineRequest:
    """Arguments of a baseline's function.

    Attributes:
        source: the float model.
        target: the file to write.
        bits: bits per weight; 0 for floats.
        calibration: calibration inputs, for a baseline that needs them.
    """

    source: Path
    target: Path
    bits: int
    calibration: CalibrationInputs | None


FLOAT32 = "float32"
"""The baseline that load time and latency are relative to."""

_ORT = "qqonnx.sweep.ort_baselines"
_PEERS = "qqonnx.sweep.peers"

_ALL = (
    Baseline(FLOAT32, (), _ORT, "float32"),
    Baseline("float16", (), _ORT, "float16"),
    Baseline("ort-dynamic-int8", (8,), _ORT, "dynamic_int8"),
    Baseline("ort-qdq-tensor", (8,), _ORT, "qdq_tensor", calibrated=True),
    Baseline("ort-qdq-channel", (8,), _ORT, "qdq_channel", calibrated=True),
    Baseline(
        "coremltools-kmeans",
        (1, 2, 3, 4, 6, 8),
        _PEERS,
        "coremltools_kmeans",
        package="coremltools",
        at_each_bits=True,
    ),
    Baseline("nncf-int8", (8,), _PEERS, "nncf_int8", package="nncf"),
    Baseline("nncf-int4", (4,), _PEERS, "nncf_int4", package="nncf"),
)

BASELINES = {baseline.name: baseline for baseline in _ALL}
"""All baselines by name."""

"""What codebooks are compared with: names, and what each needs."""

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
        name: what sweep.toml calls it.
        description: a few words, for messages and documentation.
        bits: bit-widths of a weight that it has; empty for floats.
        home: the module with its function.
        function: takes an `Order` and writes the model.
        package: what must be installed, beyond what qqonnx needs itself.
        calibrated: whether it needs activations.
        at_each_bits: whether it runs at each of the grid's bit-widths that it has, not once.
    """

    name: str
    description: str
    bits: tuple[int, ...]
    home: str
    function: str
    package: str | None = None
    calibrated: bool = False
    at_each_bits: bool = False

    @property
    def make(self) -> Callable[[Order], dict[str, str]]:
        """The function; it returns what a reader of the results should know."""
        made: Callable[[Order], dict[str, str]] = getattr(import_module(self.home), self.function)
        return made


@dataclass(frozen=True)
class Order:
    """A baseline to be made.

    Attributes:
        source: the float model.
        target: the file to write.
        bits: bit-width of a weight.
        calibration: inputs, for a baseline that is calibrated.
    """

    source: Path
    target: Path
    bits: int
    calibration: CalibrationInputs | None


FLOAT32 = "float32"
"""What the others are measured against."""

_ORT = "qqonnx.sweep.ort_baselines"
_PEERS = "qqonnx.sweep.peers"

_ALL = (
    Baseline(FLOAT32, "the model as it is", (), _ORT, "float32"),
    Baseline("float16", "ONNX Runtime's float16 converter", (), _ORT, "float16"),
    Baseline("ort-dynamic-int8", "ONNX Runtime's quantize_dynamic", (8,), _ORT, "dynamic_int8"),
    Baseline(
        "ort-qdq-tensor",
        "ONNX Runtime's quantize_static, QDQ, a scale a tensor",
        (8,),
        _ORT,
        "qdq_tensor",
        calibrated=True,
    ),
    Baseline(
        "ort-qdq-channel",
        "ONNX Runtime's quantize_static, QDQ, a scale a channel",
        (8,),
        _ORT,
        "qdq_channel",
        calibrated=True,
    ),
    Baseline(
        "coremltools-kmeans",
        "coremltools' k-means palettization",
        (1, 2, 3, 4, 6, 8),
        _PEERS,
        "coremltools_kmeans",
        package="coremltools",
        at_each_bits=True,
    ),
    Baseline("nncf-int8", "NNCF's compress_weights", (8,), _PEERS, "nncf_int8", package="nncf"),
    Baseline("nncf-int4", "NNCF's compress_weights", (4,), _PEERS, "nncf_int4", package="nncf"),
)

BASELINES = {baseline.name: baseline for baseline in _ALL}
"""Every baseline by name."""

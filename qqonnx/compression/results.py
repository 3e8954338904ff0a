"""What became of a model's weights, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import index_entropy

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from qqonnx.calibration.drop import Drop
    from qqonnx.compression.quality import Quality
    from qqonnx.encoding.stored import StoredWeight
    from qqonnx.model.compare import OutputCheck
    from qqonnx.model.select import Skipped


@dataclass(frozen=True)
class WeightReport:
    """What became of one weight.

    Attributes:
        name: the weight's name.
        shape: shape of the weight.
        method: name of the codebook method.
        granularity: "tensor", "channel", "scale" or, for MatMulNBits, "block".
        levels: number of levels of a codebook.
        levels_used: number of levels that occur in the indices; with granularity "channel", of the
            channel with most.
        bits: bits of index stored per weight.
        entropy: index entropy in bits per weight.
        l1: mean absolute error.
        l2: mean squared error.
        sqnr: signal-to-quantization-noise ratio in dB.
        bytes_before: bytes of the tensor before.
        bytes_after: bytes of indices, codebook and scales.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    granularity: str
    levels: int
    levels_used: int
    bits: float
    entropy: float
    l1: float
    l2: float
    sqnr: float
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class CompressReport:
    """What `compress` made.

    Attributes:
        path: the written file; None without an output.
        bytes_before: bytes of the input model, its external data included.
        bytes_after: bytes of the compressed model, its external data included.
        weights: the compressed weights.
        skipped: the other float tensors, with a reason each.
        outputs: the check of the file: its outputs against those of the decoded weights as floats.
        quality: what the outputs of the original model became.
        calibration: description of the calibration inputs; None without calibration.
        unreadable: calibration images that could not be read.
        doubt: why calibration did less than usual; None if it did not.
        drop: what was lost on held-out samples, for a target of a largest drop.
        quantized: number of the compressed weights that were integers before.
        model: the compressed model; None if it was written to a file.
    """

    path: Path | None
    bytes_before: int
    bytes_after: int
    weights: tuple[WeightReport, ...]
    skipped: tuple[Skipped, ...]
    outputs: OutputCheck
    quality: Quality
    calibration: str | None = None
    unreadable: tuple[str, ...] = ()
    doubt: str | None = None
    drop: Drop | None = None
    quantized: int = 0
    model: onnx.ModelProto | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report, without the model, for JSON."""
        numbers = {name: value for name, value in vars(self).items() if name != "model"}
        return {
            **numbers,
            "path": str(self.path) if self.path is not None else None,
            "weights": [asdict(weight) for weight in self.weights],
            "skipped": [asdict(entry) for entry in self.skipped],
            "outputs": asdict(self.outputs),
            "quality": asdict(self.quality),
            "drop": None if self.drop is None else asdict(self.drop),
        }


def weight_report(weight: StoredWeight) -> WeightReport:
    """Return the report of a stored weight."""
    return WeightReport(
        name=weight.name,
        shape=weight.shape,
        method=weight.method,
        granularity=weight.granularity,
        levels=weight.levels,
        levels_used=int(np.count_nonzero(weight.counts)),
        bits=weight.bits,
        entropy=index_entropy(weight.counts),
        l1=weight.error.l1,
        l2=weight.error.l2,
        sqnr=weight.error.sqnr,
        bytes_before=weight.bytes_before,
        bytes_after=weight.payload_bytes,
    )

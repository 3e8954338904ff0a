"""What became of a model's weights, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import index_entropy

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from qqonnx.codebooks import Distortion
    from qqonnx.model.compare import OutputCheck
    from qqonnx.model.select import Skipped


@dataclass(frozen=True)
class WeightReport:
    """What became of one weight.

    Attributes:
        name: the weight's name.
        shape: its shape.
        method: the codebook method.
        granularity: "tensor", "channel" or "scale".
        levels: levels of a codebook.
        levels_used: levels that occur in the indices; with granularity "channel", of the
            richest channel.
        bits: bits of index stored a weight.
        entropy: index entropy in bits a weight.
        l1: mean absolute error.
        l2: mean squared error.
        sqnr: signal-to-quantization-noise ratio in dB.
        bytes_before: bytes of the float tensor.
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
    """What `compress` wrote.

    Attributes:
        path: the file.
        bytes_before: bytes of the input file, its external data included.
        bytes_after: bytes of the written file, its external data included.
        weights: what was compressed.
        skipped: what was not, and why.
        outputs: the check of the outputs.
        calibration: what the model was calibrated with; None if it was not.
        unreadable: calibration images that were left out.
    """

    path: Path
    bytes_before: int
    bytes_after: int
    weights: tuple[WeightReport, ...]
    skipped: tuple[Skipped, ...]
    outputs: OutputCheck
    calibration: str | None = None
    unreadable: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {**asdict(self), "path": str(self.path)}


def weight_report(
    name: str,
    shape: tuple[int, ...],
    *,
    method: str,
    granularity: str,
    levels: int,
    counts: NDArray[np.int64],
    bits: float,
    error: Distortion,
    bytes_before: int,
    bytes_after: int,
) -> WeightReport:
    """Return the report of one weight.

    Args:
        name: the weight's name.
        shape: its shape.
        method: the codebook method.
        granularity: "tensor", "channel" or "scale".
        levels: levels of a codebook.
        counts: how often each index occurs, int64 [levels] or fewer.
        bits: bits of index stored a weight.
        error: of the decoded values.
        bytes_before: bytes of the float tensor.
        bytes_after: bytes of indices, codebook and scales.
    """
    return WeightReport(
        name=name,
        shape=shape,
        method=method,
        granularity=granularity,
        levels=levels,
        levels_used=int(np.count_nonzero(counts)),
        bits=bits,
        entropy=index_entropy(counts),
        l1=error.l1,
        l2=error.l2,
        sqnr=error.sqnr,
        bytes_before=bytes_before,
        bytes_after=bytes_after,
    )

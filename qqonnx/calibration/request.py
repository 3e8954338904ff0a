"""What the user asks of calibration: the data, and the size or the accuracy to meet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from pathlib import Path

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20}


@dataclass(frozen=True)
class Target:
    """A size to meet, or an accuracy; exactly one of the four.

    Attributes:
        size: bytes of the file.
        bits: bits of the file for each weight.
        ratio: how many times smaller the file is to be.
        max_drop: share of the answers that may change, between 0 and 1.
    """

    size: int | None = None
    bits: float | None = None
    ratio: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in vars(self).values() if value is not None]
        if len(given) != 1:
            raise QqonnxError("a target is one of size, bits, ratio and maximum drop")
        if not 0 < given[0] < float("inf"):
            raise QqonnxError(f"a target is a positive number, not {given[0]}")
        if self.max_drop is not None and self.max_drop >= 1:
            raise QqonnxError("--max-drop is below 100 %")

    def nbytes(self, before: int, weights: int) -> int:
        """Return the bytes of the file, of a target that is no maximum drop.

        Args:
            before: bytes of the file to compress.
            weights: number of weights in it.
        """
        if self.size is not None:
            return self.size
        if self.bits is not None:
            return int(self.bits * weights / 8)
        assert self.ratio is not None
        return int(before / self.ratio)


@dataclass(frozen=True)
class Calibration:
    """How to calibrate.

    Attributes:
        data: folder of images, or .npy or .npz file; None for made-up inputs (data-free).
        samples: greatest number of samples.
        target: size or accuracy to meet; without one the levels are those of the options.
        plan: JSON file of the allocation: written with a target, read without.
        reconstruct: tune levels, scales and biases end to end afterwards (needs PyTorch).
    """

    data: Path | None = None
    samples: int = 256
    target: Target | None = None
    plan: Path | None = None
    reconstruct: bool = False


def bytes_of(text: str) -> int:
    """Read a size such as 2.5MB, 800kB, 3MiB or 120000.

    Raises:
        QqonnxError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise QqonnxError(f"--target-size {text}: must be a size such as 2.5MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def share_of(text: str) -> float:
    """Read a share such as 1% or 0.01.

    Raises:
        QqonnxError: it is none.
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number)
    except ValueError as error:
        raise QqonnxError(f"--max-drop {text}: must be a share such as 1%") from error
    return value / 100 if text.strip().endswith("%") else value

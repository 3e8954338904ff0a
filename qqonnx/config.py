"""What each weight is to become: method, number of levels, granularity."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING

from qqonnx.codebooks import MAX_LEVELS, method_named
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from qqonnx.model.select import Skipped, Weight

GRANULARITIES = ("tensor", "channel", "scale")

OPERATORS = ("standard", "matmulnbits")

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20}


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        method: a codebook method's name.
        bits: bit-width of the method, 1 to 8.
        levels: number of levels, 2 to 256; given, it overrules `bits`.
        granularity: "tensor" (one codebook), "channel" (a codebook for each output channel) or
            "scale" (one codebook, a scale for each output channel).
        skip: patterns (`*`, `?`, `[...]`) of names of weights to leave alone.
        bits_for: bit-widths by pattern; the last that matches counts.
        include_bias: biases are weights too.
        min_size: tensors with fewer elements are left alone.
        operators: "standard" (decode nodes of standard operators) or "matmulnbits" (weights of
            MatMul and Gemm by blocks, in ONNX Runtime's own operator, which keeps them packed).
    """

    method: str = "kmeans"
    bits: int = 8
    levels: int | None = None
    granularity: str = "tensor"
    skip: Sequence[str] = ()
    bits_for: Mapping[str, int] = field(default_factory=dict)
    include_bias: bool = False
    min_size: int = 1024
    operators: str = "standard"


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


@dataclass(frozen=True)
class WeightPlan:
    """How one weight is to be stored.

    Attributes:
        weight: the weight.
        method: the codebook method.
        levels: greatest number of levels of a codebook.
        granularity: "tensor", "channel" or "scale"; what was asked, or "tensor" where the
            weight has no channel axis.
    """

    weight: Weight
    method: str
    levels: int
    granularity: str


def plan(weights: Sequence[Weight], options: Options) -> tuple[list[WeightPlan], list[Skipped]]:
    """Decide for every weight; those left alone come back with the reason.

    Raises:
        QqonnxError: unknown method or granularity, a number out of range, or a pattern of
            `skip` or `bits_for` that matches no weight.
    """
    # The command line reads `Options` for its help; that must not wait for onnx to load.
    from qqonnx.model.select import Skipped

    _check(weights, options)
    plans, skipped = [], []
    for weight in weights:
        shape = weight.shape
        count = prod(shape)
        reason = None
        if any(fnmatchcase(weight.name, pattern) for pattern in options.skip):
            reason = "as --skip says"
        elif count < max(options.min_size, 1):
            reason = f"fewer than {options.min_size} elements"
        if reason:
            skipped.append(Skipped(weight.name, shape, weight.tensor.nbytes, reason))
            continue
        granularity = options.granularity
        if weight.channel_axis is None or len(shape) < 2:
            granularity = "tensor"
        plans.append(WeightPlan(weight, options.method, _levels(weight, options), granularity))
    return plans, skipped


def bits_of(weight: Weight, options: Options) -> int:
    """Return the bit-width that the options give a weight, levels left aside."""
    matching = (n for pattern, n in options.bits_for.items() if fnmatchcase(weight.name, pattern))
    return ([options.bits, *matching])[-1]


def _levels(weight: Weight, options: Options) -> int:
    method = method_named(options.method)
    levels = options.levels or method.levels_for(options.bits)
    for pattern, bits in options.bits_for.items():
        if fnmatchcase(weight.name, pattern):
            levels = method.levels_for(bits)
    return levels


def _check(weights: Sequence[Weight], options: Options) -> None:
    method = method_named(options.method)
    if options.levels is None:
        method.levels_for(options.bits)
    elif not 2 <= options.levels <= MAX_LEVELS:
        raise QqonnxError(f"--levels is 2 to {MAX_LEVELS}, not {options.levels}")
    if options.granularity not in GRANULARITIES:
        raise QqonnxError(
            f"unknown granularity {options.granularity!r}; known: {', '.join(GRANULARITIES)}"
        )
    if options.operators not in OPERATORS:
        raise QqonnxError(f"unknown operators {options.operators!r}; known: {', '.join(OPERATORS)}")
    for bits in options.bits_for.values():
        method.levels_for(bits)
    for option, patterns in (("--skip", options.skip), ("--bits-for", options.bits_for)):
        for pattern in patterns:
            if not any(fnmatchcase(weight.name, pattern) for weight in weights):
                raise QqonnxError(f"{option} {pattern}: no weight has such a name")


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

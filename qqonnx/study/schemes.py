"""The compared schemes: codebook methods with their labels and colors in figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.codebooks import method_named
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from qqonnx.config import Granularity

BITS = tuple(range(1, 9))


@dataclass(frozen=True)
class Scheme:
    """A quantization scheme: a codebook method at a granularity.

    Attributes:
        key: a short unique name.
        label: the label in figures.
        method: the codebook method.
        color: a color of Okabe and Ito's palette, which color-blind readers can distinguish.
        marker: a marker of matplotlib.
        granularity: the granularity, as in `Options`.
        extra_bits: stored bits per weight beyond the bits of the name.
    """

    key: str
    label: str
    method: str
    color: str
    marker: str
    granularity: Granularity = "tensor"
    extra_bits: int = 0

    def levels_at(self, bits: int) -> int | None:
        """Return the number of levels at `bits`; None if the method does not have them."""
        try:
            return method_named(self.method).levels_for(bits)
        except QqonnxError:
            return None


UQ = Scheme("uq", "UQ", "uq", "#0072B2", "s")
PWLQ = Scheme("pwlq", "PWLQ 2ᵇ", "pwlq", "#E69F00", "^")
PWLQ_PAPER = Scheme("pwlq-paper", "PWLQ as published", "pwlq-paper", "#D55E00", "v", extra_bits=1)
QQ = Scheme("qq", "QQ", "qq", "#009E73", "o")
UNIQ = Scheme("uniq", "UNIQ", "uniq", "#56B4E9", "P")
NF = Scheme("nf", "NormalFloat", "nf", "#CC79A7", "X")
KMEANS = Scheme("kmeans", "k-means", "kmeans", "#000000", "D")
TAILS = Scheme("qq-tails", "QQ-tails", "qq-tails", "#D55E00", "<")
ALPHA = Scheme("qq-alpha", "QQ-alpha", "qq-alpha", "#0072B2", ">")
GREEDY = Scheme("qq-greedy", "QQ-greedy", "qq-greedy", "#CC79A7", "p")
MEDIAN = Scheme("qq-median", "QQ-median", "qq-median", "#56B4E9", "1")
MIDPOINT = Scheme("qq-midpoint", "QQ-midpoint", "qq-midpoint", "#999999", "2")
NEAREST = Scheme("qq-nearest", "QQ-nearest", "qq-nearest", "#E69F00", "3")
SCALED = Scheme("qq-scale", "QQ + channel scale", "qq", "#882255", "*", granularity="scale")

PAPER = (UQ, PWLQ, PWLQ_PAPER, QQ)
"""The schemes of the paper's figures, with PWLQ both as published and with 2^b levels."""

RELATED = (UNIQ, NF)
VARIANTS = (TAILS, ALPHA, GREEDY, NEAREST, MEDIAN, MIDPOINT, SCALED)
ALL = (*PAPER, *RELATED, *VARIANTS, KMEANS)

FITTED = tuple(scheme for scheme in ALL if scheme.granularity == "tensor")
"""The schemes that need no channels and so quantize any values."""

"""The definition of a codebook method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.codebooks.codebook import MAX_LEVELS, Codebook
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qqonnx.codebooks.sample import Sample


def power_of_two(bits: int) -> int:
    """Return 2^bits: one level per index."""
    return 1 << bits


@dataclass(frozen=True)
class Method:
    """A way to choose a codebook.

    Attributes:
        name: value of `--method`.
        description: one line for help texts and tables.
        fit: function of a sample and a number of levels (1..256) that returns a codebook of at
            most that many levels at the scale of the sample. The sample has more distinct values
            than levels.
        levels_at: function from the bit-width to the number of levels.
        min_bits: least bit-width.
        max_bits: greatest bit-width.
    """

    name: str
    description: str
    fit: Callable[[Sample, int], Codebook]
    levels_at: Callable[[int], int] = power_of_two
    min_bits: int = 1
    max_bits: int = 8

    def levels_for(self, bits: int) -> int:
        """Return the number of levels at `bits`.

        Raises:
            QqonnxError: the method does not support that bit-width.
        """
        if not self.min_bits <= bits <= self.max_bits:
            raise QqonnxError(
                f"method {self.name} takes {self.min_bits} to {self.max_bits} bits, not {bits}"
            )
        levels = self.levels_at(bits)
        assert 1 <= levels <= MAX_LEVELS
        return levels

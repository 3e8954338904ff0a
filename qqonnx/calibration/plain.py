"""The plain weights that calibrated ones are judged against: k-means with scales, equal levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qqonnx.calibration.matrices import encode_matrix, weight_matrices
from qqonnx.calibration.quantize import LEVEL_COUNTS, quantize_matrix
from qqonnx.encoding.stored import FLOAT16
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qqonnx.calibration.allocation import LevelChoice
    from qqonnx.calibration.context import Context
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.encoding.stored import CodebookWeight, StoredWeight

_LEVEL_COUNTS = sorted((*LEVEL_COUNTS, 5, 11, 12, 181))
"""Numbers of levels to choose from: those of calibration, and others between them."""


def plain_weights(
    context: Context, calibrated: Sequence[StoredWeight], budget: float
) -> Iterator[list[StoredWeight]]:
    """Yield the weights by k-means with scales, with ever fewer levels.

    All weights have equally many levels, but those whose levels the options fix. What calibration
    rounds to float16 stays so.

    Args:
        context: the weights to compress.
        calibrated: the calibrated weights.
        budget: largest number of bytes of indices, codebooks and scales.
    """
    weights = weight_matrices(context)
    rounded = [weight for weight in calibrated if weight.method == FLOAT16]

    def payload(levels: int) -> int:
        choices = [(weight, _choice(weight, levels)) for weight in weights]
        return sum(weight.payload_bytes(choice) for weight, choice in choices)

    for levels in reversed([n for n in _LEVEL_COUNTS if payload(n) <= budget] or [2]):

        def work(weight: WeightMatrix, levels: int = levels) -> CodebookWeight:
            choice = _choice(weight, levels)
            quantized = quantize_matrix(weight.values(), choice, None, None)
            return encode_matrix(weight, quantized, scaled=choice.scaled, method="kmeans")

        encoded = in_order(
            work, weights, size=lambda weight: weight.work_size, threads=context.threads
        )
        yield [*encoded, *rounded]


def _choice(weight: WeightMatrix, levels: int) -> LevelChoice:
    return weight.choice(weight.levels if weight.fixed else levels, scaled=weight.can_scale)

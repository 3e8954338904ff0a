"""Compare two models: their weights bit for bit, and their outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.encoding.verify import WeightCheck, compare_weights
from qqonnx.model.compare import OutputCheck, compare_outputs
from qqonnx.model.load import read
from qqonnx.model.session import custom_operators
from qqonnx.model.source import model_file

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from qqonnx.model.source import ModelSource


@dataclass(frozen=True)
class Verification:
    """How two models compare.

    Attributes:
        weights: comparison of the float tensors by name and bit for bit.
        outputs: comparison of the outputs on one synthetic input.
    """

    weights: WeightCheck
    outputs: OutputCheck

    @property
    def equal(self) -> bool:
        """Whether all weights are the same, and the outputs where they could be compared."""
        return self.weights.equal and (self.outputs.reason is not None or self.outputs.equal)


def verify(
    first: ModelSource,
    second: ModelSource,
    *,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
) -> Verification:
    """Compare the weights of two models bit for bit, decoded if compressed, and their outputs.

    Args:
        first: the path of an ONNX file, or a model in memory.
        second: another one.
        custom_ops: libraries of custom operators, registered in every session of ONNX Runtime.

    Returns:
        The comparison of the weights and of the outputs.

    Raises:
        QqonnxError: a model cannot be read, or ONNX Runtime loads and runs the first but not the
            second.
    """
    with custom_operators(custom_ops), model_file(first) as one, model_file(second) as other:
        weights = compare_weights(read(one), read(other))
        return Verification(weights, compare_outputs(one, other))

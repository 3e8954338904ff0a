"""The model and the inputs that every step of calibration works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.config import Progress, WeightPlan
    from qqonnx.model.select import Weight


@dataclass(frozen=True)
class Context:
    """The model and the inputs of a calibration.

    Attributes:
        model: the float model.
        plans: the weights to compress, with the levels that the options request.
        biases: tensors to round to float16.
        inputs: calibration inputs.
        bytes_before: bytes of the file that the model was read from.
        plain_bytes: bytes of the file of the model as it is now, with plain weights.
        threads: number of weights processed at once.
        importance: factors of the outputs' divergences, by name; 1 by default.
        progress: function called with the name of a step, an amount and its total.
    """

    model: ir.Model
    plans: Sequence[WeightPlan]
    biases: Sequence[Weight]
    inputs: CalibrationInputs
    bytes_before: int
    plain_bytes: int
    threads: int
    importance: Mapping[str, float]
    progress: Progress

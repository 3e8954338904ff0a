"""Calibration inputs: data of the user, or synthetic inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.calibration.synthetic.feeds import synthetic_feeds
from qqonnx.inputs.read import Inputs, model_inputs, read_inputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from qqonnx.config import CalibrationData

SYNTHETIC_WEIGHT = 1 / 30
"""Number of real samples that a synthetic one is worth: the best of 1/3, 1/10, 1/30 and 1/100 on
EfficientNet-Lite0."""

MAX_SYNTHETIC_SAMPLES = 128


@dataclass(frozen=True)
class CalibrationInputs(Inputs):
    """Inputs of the runs of a calibration.

    Attributes:
        sample_weight: number of real samples that a sample is worth: 1, or less if synthetic.
    """

    sample_weight: float = 1.0


def calibration_inputs(
    model: ir.Model, data: CalibrationData, max_samples: int
) -> CalibrationInputs:
    """Return samples for the calibration of a model.

    Args:
        model: the model.
        data: inputs as `read_inputs` takes them, or None for synthetic inputs.
        max_samples: largest number of samples, or of runs.

    Raises:
        QqonnxError: the data cannot be read, or do not fit the model's inputs.
    """
    if data is None:
        return _synthetic(model, min(max_samples, MAX_SYNTHETIC_SAMPLES))
    return CalibrationInputs(**vars(read_inputs(model, data, max_samples, shuffled=True)))


def _synthetic(model: ir.Model, count: int) -> CalibrationInputs:
    feeds, samples = synthetic_feeds(model, model_inputs(model), count)
    return CalibrationInputs(
        tuple(feeds),
        len(feeds) * samples,
        samples,
        "synthetic inputs (data-free)",
        sample_weight=SYNTHETIC_WEIGHT,
    )

"""Baselines that come with ONNX Runtime: float16 and its own quantizers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import onnx

from qqonnx.logs import logging_disabled
from qqonnx.model.load import model_files, read

if TYPE_CHECKING:
    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.sweep.baselines import Order


def float32(order: Order) -> dict[str, str]:
    """Copy the model."""
    for file in model_files(read(order.source), order.source):
        name = order.target.name if file == order.source else file.name
        shutil.copyfile(file, order.target.with_name(name))
    return {}


def float16(order: Order) -> dict[str, str]:
    """Convert all floats that float16 can hold; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with logging_disabled():
        converted = convert_float_to_float16(onnx.load(order.source), keep_io_types=True)
        onnx.save(converted, order.target)
    return {}


def dynamic_int8(order: Order) -> dict[str, str]:
    """Quantize weights ahead, activations at every run."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with logging_disabled():
        # ConvInteger runs with unsigned weights only.
        quantize_dynamic(order.source, order.target, weight_type=QuantType.QUInt8)
    return {"weight type": "QUInt8"}


def qdq_tensor(order: Order) -> dict[str, str]:
    """Quantize weights and activations to int8, a scale a tensor."""
    return _static(order, per_channel=False)


def qdq_channel(order: Order) -> dict[str, str]:
    """Quantize weights and activations to int8, a scale an output channel of a weight."""
    return _static(order, per_channel=True)


class _Reader:
    """Calibration inputs as ONNX Runtime's calibrator takes them, one run after another."""

    def __init__(self, inputs: CalibrationInputs) -> None:
        self._batches = inputs.batches()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _static(order: Order, *, per_channel: bool) -> dict[str, str]:
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert order.calibration is not None
    prepared = order.target.with_name(f"prepared-{order.target.name}")
    with logging_disabled():
        quant_pre_process(order.source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            order.target,
            _Reader(order.calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
        )
    prepared.unlink()
    return {"calibrated with": order.calibration.source}

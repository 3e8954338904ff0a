"""Baselines of ONNX Runtime: its float16 converter and its quantizers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import onnx

from qqonnx.logs import logging_disabled
from qqonnx.model.load import model_files, read

if TYPE_CHECKING:
    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.sweep.baselines import BaselineRequest


def float32(request: BaselineRequest) -> dict[str, str]:
    """Copy the model."""
    for file in model_files(read(request.source), request.source):
        name = request.target.name if file == request.source else file.name
        shutil.copyfile(file, request.target.with_name(name))
    return {}


def float16(request: BaselineRequest) -> dict[str, str]:
    """Convert floats to float16; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with logging_disabled():
        converted = convert_float_to_float16(onnx.load(request.source), keep_io_types=True)
        onnx.save(converted, request.target)
    return {}


def dynamic_int8(request: BaselineRequest) -> dict[str, str]:
    """Quantize weights now, and activations in every run of the model."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # ONNX Runtime's ConvInteger accepts unsigned weights only; signed ones are faster otherwise.
    graph = read(request.source).graph
    has_conv = any(node.op_type == "Conv" for node in graph.all_nodes())
    kind = QuantType.QUInt8 if has_conv else QuantType.QInt8
    with logging_disabled():
        quantize_dynamic(request.source, request.target, weight_type=kind)
    return {"weight type": kind.name}


def qdq_tensor(request: BaselineRequest) -> dict[str, str]:
    """Quantize weights and activations to int8 with one scale per tensor."""
    return _static(request, per_channel=False)


def qdq_channel(request: BaselineRequest) -> dict[str, str]:
    """Quantize weights and activations to int8; weights have one scale per output channel."""
    return _static(request, per_channel=True)


class _Reader:
    """Calibration inputs in the interface of ONNX Runtime's calibrator."""

    def __init__(self, inputs: CalibrationInputs) -> None:
        self._batches = inputs.batches()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _static(request: BaselineRequest, *, per_channel: bool) -> dict[str, str]:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert request.calibration is not None
    prepared = request.target.with_name(f"prepared-{request.target.name}")
    with logging_disabled():
        quant_pre_process(request.source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            request.target,
            _Reader(request.calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            # On x86 signed activations, the default, take much longer.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    prepared.unlink()
    return {"calibrated with": request.calibration.source}

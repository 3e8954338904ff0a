"""A model that is quantized already, as one with rounded activations and float weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.config import DEFAULT_BITS, INTEGER_RANGES, Calibration
from qqonnx.errors import OptionError, QqonnxError
from qqonnx.integer.float_weights import float_weights
from qqonnx.integer.floats import without_rounding
from qqonnx.integer.layers import multiplied_as_integers
from qqonnx.model.quantized import integer_weights
from qqonnx.model.scopes import tensor_of
from qqonnx.model.select import select

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.compression.job import Job
    from qqonnx.config import Options

_MOST_LEVELS = 128
"""With more levels, a file is no smaller than its integers."""

_LARGEST_REST = 0.1
"""Bytes of integers that cannot become floats, beside those that do, up to which targets hold."""


@dataclass(frozen=True)
class Requantized:
    """A quantized model whose weights are floats, so that they can be calibrated.

    Attributes:
        model: a copy of the model; its activations are rounded as before.
        options: options of the kind of execution that the model has.
        inputs: calibration inputs; None if they are not read yet.
        bytes: bytes of the integers that became floats, by the weight's name.
        bytes_added: bytes by which the constants grew.
    """

    model: ir.Model
    options: Options
    inputs: CalibrationInputs | None
    bytes: Mapping[str, int]
    bytes_added: int


def requantized(model: ir.Model, job: Job) -> Requantized | None:
    """Return a quantized model with float weights; None if no weight gains from calibration.

    Raises:
        OptionError: fine-tuning, which does not run integers, would be ignored.
        QqonnxError: the calibration inputs cannot be read.
    """
    options, request = job.options, job.calibration or Calibration()
    has_target = request.target is not None or request.plan is not None
    levels = options.levels or 2 ** (options.bits or DEFAULT_BITS)
    if not has_target and levels > _MOST_LEVELS:
        return None
    before = {w.name: w for w in integer_weights(model)[0] if _is_compressed(w.value, options)}
    copy = model.clone()
    found = float_weights(copy, lambda value: value.name in before)
    converted = [before[name].value for name in found]
    left = sum(weight.tensor.nbytes for name, weight in before.items() if name not in found)
    refused = has_target and left > _LARGEST_REST * sum(found.values())
    exact = not has_target and all(_distinct(value) <= levels for value in converted)
    if not found or refused or exact:
        return None
    added = _initializer_bytes(copy) - _initializer_bytes(model)
    if not multiplied_as_integers(select(copy)[0]):
        return Requantized(copy, options, None, found, added)
    if request.finetune:
        raise OptionError("finetune", "would be ignored: the model computes with integers")
    small, full = INTEGER_RANGES
    limit = small if max(map(_largest_integer, converted)) <= small + 1 else full
    options = replace(options, compute="int8", int8_range=limit)
    return Requantized(copy, options, _inputs(copy, request, job), found, added)


def _inputs(model: ir.Model, request: Calibration, job: Job) -> CalibrationInputs | None:
    """Return the calibration inputs; None for synthetic ones if the model is not run or fails."""
    hold_out = not request.has_max_drop
    if request.data is not None:
        return calibration_inputs(model, request.data, request.samples, hold_out=hold_out)
    if not job.verify_outputs:
        return None
    try:
        # What the first layer expects is plain only without the rounding in front of it.
        plain = without_rounding(model)
        return calibration_inputs(plain, None, request.samples, hold_out=hold_out)
    except QqonnxError:
        return None


def _is_compressed(value: ir.Value, options: Options) -> bool:
    name = value.name or ""
    skipped = any(fnmatchcase(name, pattern) for pattern in options.skip)
    return not skipped and tensor_of(value).size >= max(options.min_size, 1)


def _initializer_bytes(model: ir.Model) -> int:
    return sum(tensor_of(value).nbytes for value in model.graph.initializers.values())


def _distinct(value: ir.Value) -> int:
    return np.unique(tensor_of(value).numpy()).size


def _largest_integer(value: ir.Value) -> int:
    """Return the largest absolute value of an int8 weight; 0 for uint8, whose kernels differ."""
    values = tensor_of(value).numpy()
    return 0 if values.dtype == np.uint8 else int(np.abs(values.astype(np.int16)).max(initial=0))

"""Integer execution: a model with rounded activations and float weights; later, integer weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.config import DEFAULT_BITS, INTEGER_RANGES, Calibration
from qqonnx.encoding.packing import unpack
from qqonnx.encoding.stored import CodebookWeight
from qqonnx.errors import OptionError, QqonnxError
from qqonnx.integer.dynamic import round_dynamically
from qqonnx.integer.float_weights import float_weights
from qqonnx.integer.floats import without_rounding
from qqonnx.integer.layers import form_of, largest_level, multiplied_as_integers
from qqonnx.integer.weights import IntegerWeight, nearest_integers, put_integers
from qqonnx.model.folding import fold_weights
from qqonnx.model.load import fix_initializers
from qqonnx.model.quantized import integer_weights
from qqonnx.model.scopes import tensor_of
from qqonnx.model.select import select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.config import Options
    from qqonnx.encoding.stored import StoredWeight

_MOST_LEVELS = 128
"""With more levels, a file is no smaller than its integers."""

_LARGEST_REST = 0.1
"""Bytes of integers that cannot become floats, beside those that do, up to which targets hold."""

_ROUNDED = (
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "MatMulInteger",
    "ConvInteger",
)


def round_activations(
    model: ir.Model, options: Options, calibration: Calibration | None
) -> tuple[ir.Model, CalibrationInputs]:
    """Return a copy of a model with rounded activations and float weights, and its inputs.

    Args:
        model: the float model.
        options: options with `compute` other than "float".
        calibration: the inputs of the runs that show ranges; by default synthetic ones.

    Raises:
        QqonnxError: the model computes with integers already or has no layer that could, or ONNX
            Runtime does not quantize it.
    """
    found = {node.op_type for node in model.graph} & set(_ROUNDED)
    if found:
        raise QqonnxError(
            f"--compute {options.compute}: the model has {min(found)} already; without --compute, "
            "its integer operators are kept"
        )
    calibration = calibration or Calibration()
    hold_out = not calibration.has_max_drop
    inputs = calibration_inputs(model, calibration.data, calibration.samples, hold_out=hold_out)
    model = model.clone()
    if options.constant_initializers:
        fix_initializers(model)
    fold_weights(model)
    form = form_of(model) if options.compute == "int8" else options.compute
    weights, _ = select(model)
    kept = {w.name for w in weights if any(fnmatchcase(w.name, skip) for skip in options.skip)}
    if form == "int8-static":
        from qqonnx.integer.static import round_statically

        rounded = round_statically(model, list(inputs.batches()), kept)
    else:
        rounded = round_dynamically(model, kept)
    if not multiplied_as_integers(select(rounded)[0]):
        raise QqonnxError(
            f"--compute {options.compute}: no Conv, Gemm or MatMul can multiply integers"
        )
    return rounded, inputs


@dataclass(frozen=True)
class Requantized:
    """A model that is quantized already, with float weights that can be calibrated.

    Attributes:
        model: a copy of the model; its activations are rounded as before.
        options: options of the kind of execution that the model has.
        inputs: calibration inputs, if they were read.
        bytes: bytes of the integers that became floats, by the weight's name.
        bytes_added: bytes by which the constants grew.
    """

    model: ir.Model
    options: Options
    inputs: CalibrationInputs | None
    bytes: Mapping[str, int]
    bytes_added: int


def requantized(
    model: ir.Model, options: Options, calibration: Calibration | None
) -> Requantized | None:
    """Return a quantized model with float weights; None if no weight can gain from calibration.

    Raises:
        OptionError: fine-tuning, which does not run integers, would be ignored.
        QqonnxError: the calibration inputs cannot be read.
    """
    copy = model.clone()
    has_target = calibration is not None and (calibration.target or calibration.plan) is not None
    levels = options.levels or 2 ** (options.bits or DEFAULT_BITS)
    if not has_target and levels > _MOST_LEVELS:
        return None
    found = float_weights(copy, lambda value: _is_compressed(value, options))
    weights = [
        weight for weight in integer_weights(model)[0] if _is_compressed(weight.value, options)
    ]
    left = sum(weight.tensor.nbytes for weight in weights if weight.name not in found)
    if has_target and left > _LARGEST_REST * sum(found.values()):
        return None
    integers = [model.graph.initializers[name] for name in found]
    exact = not has_target and all(_distinct(value) <= levels for value in integers)
    if not found or exact:
        return None
    added = _initializer_bytes(copy) - _initializer_bytes(model)
    if not multiplied_as_integers(select(copy)[0]):
        return Requantized(copy, options, None, found, added)
    if calibration is not None and calibration.finetune:
        raise OptionError("finetune", "would be ignored: the model computes with integers")
    largest = max(map(_largest_integer, integers))
    limit = min(INTEGER_RANGES) if largest <= min(INTEGER_RANGES) + 1 else max(INTEGER_RANGES)
    options = replace(options, compute="int8", int8_range=limit)
    calibration = calibration or Calibration()
    # What the first layer expects is plain only without the rounding in front of it.
    shown = without_rounding(copy) if calibration.data is None else copy
    inputs = calibration_inputs(
        shown, calibration.data, calibration.samples, hold_out=not calibration.has_max_drop
    )
    return Requantized(copy, options, inputs, found, added)


def _initializer_bytes(model: ir.Model) -> int:
    return sum(tensor_of(value).nbytes for value in model.graph.initializers.values())


def _is_compressed(value: ir.Value, options: Options) -> bool:
    name = value.name or ""
    skipped = any(fnmatchcase(name, pattern) for pattern in options.skip)
    return not skipped and tensor_of(value).size >= max(options.min_size, 1)


def _distinct(value: ir.Value) -> int:
    return np.unique(tensor_of(value).numpy()).size


def _largest_integer(value: ir.Value) -> int:
    """Return the largest absolute value of an int8 weight; 0 for uint8, whose kernels differ."""
    values = tensor_of(value).numpy()
    return 0 if values.dtype == np.uint8 else int(np.abs(values.astype(np.int16)).max(initial=0))


def put_integer_weights(model: ir.Model, stored: Sequence[StoredWeight], options: Options) -> None:
    """Replace every weight of a layer with rounded inputs by integers, in place.

    Weights that are not stored with integer levels, such as small ones, are rounded to int8.
    """
    by_name = {w.name: w for w in stored if isinstance(w, CodebookWeight) and w.is_integer}
    integers = []
    for weight in multiplied_as_integers(select(model)[0]):
        found = by_name.get(weight.name)
        if found is None:
            integers.append(nearest_integers(weight, largest_level(weight, options.int8_range)))
            continue
        assert found.scales is not None
        assert found.channel_axis is not None
        indices = unpack(found.planes, found.storage, weight.tensor.size)
        values = found.codebook[indices].reshape(weight.shape).astype(np.int8, copy=False)
        integers.append(IntegerWeight(weight.name, values, found.scales, found.channel_axis))
    put_integers(model, integers)

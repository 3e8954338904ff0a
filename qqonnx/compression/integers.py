"""Integer execution in the way of a model: round its activations, then put integer weights in."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.config import Calibration
from qqonnx.encoding.packing import unpack
from qqonnx.encoding.stored import CodebookWeight
from qqonnx.errors import QqonnxError
from qqonnx.integer.dynamic import round_dynamically
from qqonnx.integer.layers import form_of, largest_level, multiplied_as_integers
from qqonnx.integer.weights import IntegerWeight, nearest_integers, put_integers
from qqonnx.model.folding import fold_weights
from qqonnx.model.load import fix_initializers
from qqonnx.model.select import select

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.config import Options
    from qqonnx.encoding.stored import StoredWeight

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

"""Calibration inputs: data of the user, or synthetic inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.images import synthetic_images
from qqonnx.calibration.session import extended_session
from qqonnx.errors import QqonnxError
from qqonnx.inputs.feeds import numpy_type
from qqonnx.inputs.read import Inputs, model_inputs, read_inputs, stacked_runs
from qqonnx.model.scopes import tensor_of
from qqonnx.model.session import run_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.config import CalibrationData
    from qqonnx.inputs.feeds import Feed

SYNTHETIC_WEIGHT = 1 / 30
"""Number of real samples that a synthetic one is worth: the best of 1/3, 1/10, 1/30 and 1/100 on
EfficientNet-Lite0."""

MAX_SYNTHETIC_SAMPLES = 128

SYMBOLIC_SIZES = (32, 8, 64, 512, 4096)
"""Sizes of the symbolic dimensions of synthetic inputs, in the order in which they are tried."""


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
        return _synthetic(model, model_inputs(model), min(max_samples, MAX_SYNTHETIC_SAMPLES))
    return CalibrationInputs(**vars(read_inputs(model, data, max_samples, shuffled=True)))


def _synthetic(model: ir.Model, declared: Sequence[ir.Value], count: int) -> CalibrationInputs:
    images = synthetic_images(model, declared, count)
    if images is not None:
        stacked = stacked_runs(
            declared, {declared[0].name or "": images}, count, "synthetic inputs"
        )
    else:
        stacked = _synthetic_noise(model, declared, count)
    feeds, count, batch_size = stacked
    return CalibrationInputs(
        tuple(feeds),
        count,
        batch_size,
        "synthetic inputs (data-free)",
        sample_weight=SYNTHETIC_WEIGHT,
    )


def _synthetic_noise(
    model: ir.Model, declared: Sequence[ir.Value], count: int
) -> tuple[list[Feed], int, int]:
    """Return noise of a size that the model accepts, as far as the model leaves the size open."""

    def stacked(size: int) -> tuple[list[Feed], int, int]:
        random = np.random.default_rng(0)
        arrays = {value.name or "": _noise(value, count, size, random) for value in declared}
        return stacked_runs(declared, arrays, count, "synthetic inputs")

    first = stacked(SYMBOLIC_SIZES[0])
    dims = [dim for value in declared for dim in list(value.shape or ())[1:]]
    if all(isinstance(dim, int) for dim in dims):
        return first
    with extended_session(model) as session:
        for size in SYMBOLIC_SIZES:
            candidate = stacked(size)
            try:
                run_session(session, candidate[0][0])
            except QqonnxError:
                continue
            return candidate
    # The error of the first size tells more than "no size runs".
    return first


def _noise(value: ir.Value, count: int, size: int, random: np.random.Generator) -> NDArray[Any]:
    """Return synthetic values of an input: [count, ...], or [] for an input of no dimensions.

    Masks are ones and lengths are whole. Other integers are indices into the tables that they look
    up.
    """
    dims = list(value.shape or ())
    shape = [count, *(dim if isinstance(dim, int) else size for dim in dims[1:])]
    if value.shape is not None and not dims:
        shape = []
    dtype, name = numpy_type(value), (value.name or "").lower()
    if dtype.kind == "b" or "mask" in name:
        return np.ones(shape, dtype)
    if dtype.kind == "f":
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    if "length" in name or name.endswith(("_len", "_lens")):
        return np.full(shape, size, dtype)
    return np.asarray(random.integers(0, _rows_gathered(value), shape)).astype(dtype)


def _rows_gathered(value: ir.Value) -> int:
    """Return the number of rows of the smallest table that `value` indexes; 2 without a table."""
    rows = [
        tensor_of(table).shape.numpy()[node.attributes.get_int("axis", 0)]
        for node, index in value.uses()
        if node.op_type == "Gather" and index == 1
        for table in (node.inputs[0],)
        if table is not None and table.const_value is not None
    ]
    return min(rows, default=2)

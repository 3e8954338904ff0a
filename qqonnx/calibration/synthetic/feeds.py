"""Runs of synthetic inputs, of a size that the model accepts."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.session import extended_session, first_run
from qqonnx.calibration.synthetic.axes import has_open_axes, input_shapes, is_open
from qqonnx.calibration.synthetic.kinds import input_kind, is_state
from qqonnx.calibration.synthetic.values import input_maker
from qqonnx.errors import QqonnxError
from qqonnx.inputs.feeds import numpy_type
from qqonnx.inputs.images import BATCH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir
    import onnxruntime as ort

    from qqonnx.calibration.synthetic.values import Maker
    from qqonnx.inputs.feeds import Feed

SYMBOLIC_SIZES = (32, 8, 64, 512, 4096)
"""Sizes of the open axes of synthetic inputs, in the order in which they are tried."""

SIZES = {
    "image": (224, 320, 48, 64, 32, 512),
    "waveform": (16_384, 4096, 1024, 512, 256, 32_768, 65_536),
    "spectrogram": (128, 64, 256, 512, 1024, 32),
}
"""The same for models that take such inputs; the first that a model has."""

MAX_VALUES = 2**24
"""Number of values that a synthetic input may have."""

MOST_VALUES = 1 << 27
"""Largest number of values of all runs, as long as there are `FEWEST_RUNS`."""

FEWEST_RUNS = 4


def synthetic_feeds(
    model: ir.Model, declared: Sequence[ir.Value], count: int
) -> tuple[list[Feed], int]:
    """Return the inputs of some runs, and the number of samples of a run.

    Args:
        model: the model.
        declared: its inputs.
        count: number of samples of all runs; fewer if the model fixes another batch size.

    Raises:
        QqonnxError: numpy has no type for an input, or the inputs are too large.
    """
    makers = {value.name or "": input_maker(model, value) for value in declared}
    kinds = {input_kind(value) for value in declared if numpy_type(value).kind == "f"}
    sizes = next((SIZES[kind] for kind in SIZES if kind in kinds), SYMBOLIC_SIZES)
    attempts = [(batch, size) for batch in (min(BATCH, count), 1) for size in sizes]
    # The error of the first size tells more than "no size runs".
    chosen = attempts[0]
    if has_open_axes(declared):
        with extended_session(model) as session:
            chosen = next((a for a in attempts if _runs(session, declared, makers, a)), chosen)
    values = sum(map(prod, _shapes(declared, chosen).values()))
    if values > MAX_VALUES:
        raise QqonnxError("the inputs are too large to make synthetic ones")
    random = np.random.default_rng(0)
    first = _feed(declared, makers, chosen, random)
    samples = next((len(a) for v in declared if (a := first[v.name or ""]).ndim), 1)
    # All runs are in memory.
    most = max(MOST_VALUES // max(values, 1), FEWEST_RUNS)
    rest = range(1, min(max(count // samples, 1), most))
    return [first, *(_feed(declared, makers, chosen, random) for _ in rest)], samples


def _runs(
    session: ort.InferenceSession,
    declared: Sequence[ir.Value],
    makers: Mapping[str, Maker],
    attempt: tuple[int, int],
) -> bool:
    """Return whether a model runs on inputs of a size, and its outputs have finite values."""
    shapes = _shapes(declared, attempt)
    if max(map(prod, shapes.values())) > MAX_VALUES:
        return False
    try:
        outputs = first_run(session, _feed(declared, makers, attempt, np.random.default_rng(0)))
    except QqonnxError:
        return False
    arrays = [entry for entry in outputs if isinstance(entry, np.ndarray) and entry.size]
    return any(entry.dtype.kind != "f" or bool(np.isfinite(entry).any()) for entry in arrays)


def _feed(
    declared: Sequence[ir.Value],
    makers: Mapping[str, Maker],
    attempt: tuple[int, int],
    random: np.random.Generator,
) -> Feed:
    shapes = _shapes(declared, attempt)
    sizes = [
        size
        for value in declared
        for axis, size in enumerate(shapes[value.name or ""])
        if is_open(value, axis)
    ]
    return {
        name: makers[name](shape, min(sizes, default=attempt[1]), attempt[1], random).astype(
            numpy_type(value), copy=False
        )
        for value in declared
        for name, shape in ((value.name or "", shapes[value.name or ""]),)
    }


def _shapes(declared: Sequence[ir.Value], attempt: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    return input_shapes(declared, *attempt, {v.name or "" for v in declared if is_state(v)})

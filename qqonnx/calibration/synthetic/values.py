"""Makers of synthetic values, one for each input of a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.synthetic.generators import dead_leaves, log_spectrogram, speech_like
from qqonnx.calibration.synthetic.images import image_scaling
from qqonnx.calibration.synthetic.kinds import (
    channel_axis,
    compared_constants,
    indexes_values,
    input_kind,
    input_range,
    rows_gathered,
    time_and_frequency,
)
from qqonnx.inputs.feeds import numpy_type

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir
    from numpy.typing import NDArray

    Maker = Callable[[tuple[int, ...], int, int, np.random.Generator], NDArray[Any]]
    """From shape, smallest open size, size of the open axes, and random numbers to values."""

_LENGTH = re.compile(r"length|_lens?$|^lens?$")

_STATE_SIZE = 0.1
"""Standard deviation of the states of recurrent layers."""


def input_maker(model: ir.Model, value: ir.Value) -> Maker:
    """Return the maker of synthetic values of an input.

    Masks are ones and lengths are whole. Other integers are indices into the tables or axes that
    they look up. Scalars and vectors without a sample axis are settings: a constant that the graph
    compares them with, or one. Floats are photographs, sounds, spectrograms or noise.

    Raises:
        QqonnxError: numpy has no type for the input.
    """
    kind, name = numpy_type(value).kind, (value.name or "").lower()
    if kind == "b" or "mask" in name:
        return lambda shape, *_: np.ones(shape)
    constants = compared_constants(value)
    if _is_setting(value):
        setting = 1 if constants is None else constants[0]
        return lambda shape, *_: np.full(shape, setting)
    if kind == "f":
        return _float_maker(model, value)
    if _LENGTH.search(name):
        return lambda shape, _, size, __: np.full(shape, size)
    if constants is not None:
        return lambda shape, _, __, random: random.choice(constants, shape)
    rows, indexes = rows_gathered(value), indexes_values(value)
    return lambda shape, least, _, random: _indices(
        rows or (least if indexes else 2), shape, random
    )


def _indices(rows: int, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    """Return indices below `rows`, each of them equally often as far as there is room."""
    count = int(np.prod(shape))
    step = max(rows // max(count, 1), 1)
    spread = (random.integers(0, rows) + step * np.arange(count)) % rows
    return random.permutation(spread).reshape(shape)


def _is_setting(value: ir.Value) -> bool:
    dims = list(value.shape or ())
    return not dims or (len(dims) == 1 and isinstance(dims[0], int) and dims[0] > 0)


def _float_maker(model: ir.Model, value: ir.Value) -> Maker:
    kind = input_kind(value)
    if kind == "image":
        return _image_maker(model, value)
    if kind == "spectrogram":
        return _spectrogram_maker(value)
    if kind == "state":
        return lambda shape, _, __, random: _STATE_SIZE * random.standard_normal(shape)
    if kind == "waveform":
        return lambda shape, _, __, random: np.stack(
            [speech_like(int(np.prod(shape[1:])), random) for _ in range(shape[0])]
        ).reshape(shape)
    return _ranged(value, lambda shape, _, __, random: random.standard_normal(shape))


def _image_maker(model: ir.Model, value: ir.Value) -> Maker:
    scaling = image_scaling(model.metadata_props, value)
    last = channel_axis(value) == 3

    def images(
        shape: tuple[int, ...], _: int, __: int, random: np.random.Generator
    ) -> NDArray[Any]:
        height, width, channels = shape[1:] if last else (*shape[2:], shape[1])
        stacked = np.stack(
            [scaling(dead_leaves(height, width, channels, random)) for _ in range(shape[0])]
        )
        return np.ascontiguousarray(stacked.transpose(0, 2, 3, 1) if last else stacked)

    return images


def _spectrogram_maker(value: ir.Value) -> Maker:
    time, frequency = time_and_frequency(value)

    def spectrograms(
        shape: tuple[int, ...], _: int, __: int, random: np.random.Generator
    ) -> NDArray[Any]:
        others = [axis for axis in range(len(shape)) if axis not in (time, frequency)]
        count = int(np.prod([shape[axis] for axis in others]))
        stacked = np.stack(
            [log_spectrogram(shape[time], shape[frequency], random) for _ in range(count)]
        )
        order = [*others, time, frequency]
        arranged = stacked.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
        return np.ascontiguousarray(arranged)

    return _ranged(value, spectrograms)


def _ranged(value: ir.Value, standardized: Maker) -> Maker:
    """Return a maker of values in the range that the graph expects, from one of unit variance."""
    known = input_range(value)
    if known is None:
        return standardized
    mean, std = known.mean, known.std
    if len(mean) > 1:
        # A BatchNormalization has the channels second.
        dims = list(value.shape or ())
        if len(dims) < 2 or dims[1] != len(mean):
            return standardized
        column = (-1, *(1 for _ in dims[2:]))
        mean, std = mean.reshape(column), std.reshape(column)

    def ranged(
        shape: tuple[int, ...], least: int, size: int, random: np.random.Generator
    ) -> NDArray[Any]:
        return np.asarray(mean + std * standardized(shape, least, size, random))

    return ranged

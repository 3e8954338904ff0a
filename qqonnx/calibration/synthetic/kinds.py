"""What kind of data an input of a model takes, and in which range, as far as the graph says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir

from qqonnx.calibration.synthetic.axes import is_open

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Kind = Literal["image", "spectrogram", "state", "values", "waveform"]

ARRANGING = (
    "Cast", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that change the place, the shape or the type of values, but not the values."""

FREQUENCIES = (32, 40, 60, 64, 80, 96, 100, 120, 128, 160, 161, 201, 257, 320, 513)
"""Usual numbers of frequencies of a spectrogram."""

_SHORT, _LONG = 100, 4000
"""Length from which a filtered axis is time, and that from which any axis is."""

_STATE = re.compile(r"(h|c|hx|cx|h_?0|c_?0|h_?n|c_?n|state|hidden|cell)(_?in|_?\d+)?")
_SPECTROGRAM = re.compile(r"mel|spec|fbank|mfcc|feat")
_TIME_OR_FREQUENCY = re.compile(r"mel|spec|frame|freq|feat")


@dataclass(frozen=True)
class Range:
    """Values that the first operators of a model turn to values of about mean 0 and variance 1.

    Attributes:
        mean: one number, or one for each channel.
        std: the same.
        exact: whether they are the statistics of the training data, from a BatchNormalization;
            otherwise they are constants of arithmetic, such as 127.5 or 255.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    exact: bool


def input_kind(value: ir.Value) -> Kind:
    """Return what an input of floats is, by its shape, its name and the operators that read it."""
    rank = len(value.shape or ())
    if is_state(value):
        return "state"
    if rank == 4:
        channels = channel_axis(value)
        if channels is None:
            return "values"
        return "spectrogram" if _is_spectrogram(value, channels) else "image"
    if rank in (2, 3) and _is_waveform(value):
        return "waveform"
    fixed = {_size(value, axis) for axis in range(1, rank)}
    if rank == 3 and (fixed.intersection(FREQUENCIES) or _named_spectrogram(value)):
        return "spectrogram"
    return "values"


def channel_axis(value: ir.Value) -> int | None:
    """Return the axis of 1 or 3 channels of an input [n, c, h, w] or [n, h, w, c]; or None."""
    return next((axis for axis in (1, 3) if _size(value, axis) in (1, 3)), None)


def input_range(value: ir.Value) -> Range | None:
    """Return the range of an input from the arithmetic that it goes through first.

    That is a Sub, Add, Mul or Div with a constant, or several of them, or a BatchNormalization.
    """
    scale, offset, found = np.array(1.0), np.array(0.0), False
    current = value
    while True:
        steps = list(readers(current))
        if len(steps) != 1:
            break
        node, index = steps[0]
        if node.op_type == "BatchNormalization" and index == 0 and not found:
            mean, variance = (constant_of(node.inputs[i]) for i in (3, 4))
            if mean is None or variance is None:
                return None
            return Range(mean.ravel(), np.sqrt(np.maximum(variance.ravel(), 1e-12)), exact=True)
        other = constant_of(node.inputs[1 - index]) if len(node.inputs) == 2 else None
        if other is None or other.size not in (1, 3) or node.op_type not in _ARITHMETIC:
            break
        if index and node.op_type in ("Sub", "Div"):
            break
        other = other.astype(np.float64).ravel()
        if node.op_type in ("Mul", "Div"):
            factor = other if node.op_type == "Mul" else 1 / np.where(other == 0, 1, other)
            scale, offset = scale * factor, offset * factor
        else:
            offset = offset + (other if node.op_type == "Add" else -other)
        found, current = True, node.outputs[0]
    if not found or not np.all(scale):
        return None
    return Range(np.atleast_1d(-offset / scale), np.atleast_1d(np.abs(1 / scale)), exact=False)


_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yield the operators that read a value, with the index of the input, past `ARRANGING`."""
    for node, index in value.uses():
        if node.op_type in ARRANGING and index == 0:
            for output in node.outputs:
                yield from readers(output)
        else:
            yield node, index


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the values of an initializer or of a Constant node's output; None for others."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def compared_constants(value: ir.Value) -> NDArray[Any] | None:
    """Return the constants that an input is compared with, such as sample rates; or None."""
    for node, index in readers(value):
        if node.op_type == "Equal":
            constant = constant_of(node.inputs[1 - index])
            if constant is not None and constant.size:
                return constant.ravel()
    return None


def rows_gathered(value: ir.Value) -> int | None:
    """Return the number of rows of the smallest table that `value` indexes; None without one."""
    rows = [
        tensor.shape[node.attributes.get_int("axis", 0)]
        for node, index in readers(value)
        if node.op_type == "Gather" and index == 1
        for tensor in (constant_of(node.inputs[0]),)
        if tensor is not None
    ]
    return min(rows, default=None)


def indexes_values(value: ir.Value) -> bool:
    """Return whether an input is an index into values that the model computes or is given."""
    return any(
        node.op_type.startswith(("Gather", "Scatter")) and index == 1
        for node, index in readers(value)
    )


def time_and_frequency(value: ir.Value) -> tuple[int, int]:
    """Return the axes of time and of frequency of a spectrogram [n, ...]."""
    rank = len(value.shape or ())
    axes = [axis for axis in range(1, rank) if _size(value, axis) not in (1, 3)] or [1, rank - 1]
    frequency = next((axis for axis in axes if _size(value, axis) in FREQUENCIES), axes[-1])
    time = next((axis for axis in axes if axis != frequency), 1 if frequency != 1 else rank - 1)
    return time, frequency


def first_layer(value: ir.Value) -> ir.Node | None:
    """Return the first Conv, Gemm or MatMul that an input goes through; None at a branch."""
    current = value
    for _ in range(32):
        nodes = {id(node): node for node, _ in readers(current)}
        if len(nodes) != 1:
            return None
        (node,) = nodes.values()
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            return node
        current = node.outputs[0]
    return None


def is_state(value: ir.Value) -> bool:
    """Return whether an input is the state of a recurrent layer before the first step."""
    if _STATE.fullmatch((value.name or "").lower()):
        return True
    return any(
        node.op_type in ("GRU", "LSTM", "RNN") and index in (5, 6) for node, index in readers(value)
    )


def _is_spectrogram(value: ir.Value, channels: int) -> bool:
    rows, columns = (2, 3) if channels == 1 else (1, 2)
    return _named_spectrogram(value) or (
        _size(value, channels) == 1
        and _size(value, columns) in FREQUENCIES
        and _size(value, rows) != _size(value, columns)
    )


def _named_spectrogram(value: ir.Value) -> bool:
    # An input called "frame" may be a picture; an axis called so is time.
    return bool(_SPECTROGRAM.search((value.name or "").lower())) or any(
        _TIME_OR_FREQUENCY.search(str(dim).lower()) for dim in value.shape or ()
    )


def _is_waveform(value: ir.Value) -> bool:
    """Return whether one axis beside the samples is open or long, or is filtered."""
    sizes = [_size(value, axis) for axis in range(1, len(value.shape or ()))]
    long = [size for size in sizes if size != 1]
    if len(long) != 1:
        return False
    if long[0] is None or long[0] > _LONG:
        return True
    return long[0] > _SHORT and any(_is_filter(node) for node, _ in readers(value))


def _is_filter(node: ir.Node) -> bool:
    """Return whether a node is a convolution of one signal, or a transform of windows."""
    if node.op_type == "STFT":
        return True
    weight = constant_of(node.inputs[1]) if node.op_type == "Conv" else None
    if weight is None or weight.shape[1] != 1:
        return False
    long = [size for size in weight.shape[2:] if size != 1]
    return len(long) == 1 and long[0] > 2


def _size(value: ir.Value, axis: int) -> int | None:
    assert value.shape is not None
    dim = value.shape[axis]
    return None if is_open(value, axis) or not isinstance(dim, int) else dim

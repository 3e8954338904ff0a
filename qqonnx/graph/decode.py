"""The nodes that turn packed indices back into a weight, in standard ONNX operators.

For a codebook of k levels and codes of m weights, with D the digits of the numbers below k^m:

    table  = Gather(codebook [k], D [k^m, m])                 one row of m levels for each code
    codes  = Cast(byte plane) + Gather(plane digits, Cast(plane)) + ...
    weight = Reshape(Gather(table, codes))  [* scales]

ONNX Runtime folds all of it into a plain initializer when it loads the model. D is computed by
nodes too, once for the whole model, so that the file stores only indices and levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qqonnx.quantize import broadcastable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from qqonnx.packing import Storage
    from qqonnx.quantize import QuantizedWeight, RoundedWeight


@dataclass
class Scope:
    """Where decode nodes are being added: one graph or function.

    Attributes:
        fresh_name: gives a name that the model does not have yet.
        in_function: constants become Constant nodes, as functions have no initializers.
        nodes: the nodes so far, in order.
        initializers: the constants so far, if not `in_function`.
        shared: values that several weights use, by what they are.
    """

    fresh_name: Callable[[str], str]
    in_function: bool
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)
    shared: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def constant(self, array: NDArray[np.generic], suffix: str) -> ir.Value:
        """Add a constant."""
        name = self.fresh_name(suffix)
        tensor = ir.Tensor(array, name=name)
        if self.in_function:
            return self.apply("Constant", [], suffix, value=tensor)
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.initializers.append(value)
        return value

    def integers(self, numbers: tuple[int, ...] | int, dtype: type[np.integer]) -> ir.Value:
        """Return a small integer constant, one for all weights that need the same."""
        key = ("integers", numbers, dtype)
        if key not in self.shared:
            self.shared[key] = self.constant(np.array(numbers, dtype), "n")
        return self.shared[key]

    def apply(
        self, op_type: str, inputs: list[ir.Value], suffix: str, **attributes: object
    ) -> ir.Value:
        """Add a node with one output."""
        output = ir.Value(name=self.fresh_name(suffix))
        node = ir.node(op_type, inputs, attributes, outputs=[output])  # type: ignore[arg-type]
        # A name is optional and would be kept in the file for nothing.
        node.name = ""
        self.nodes.append(node)
        return output


def add_rounded(scope: Scope, weight: RoundedWeight) -> ir.Value:
    """Add a Cast from float16 to the dtype of `weight`; returns its output."""
    values = scope.constant(weight.values, "h")
    return scope.apply("Cast", [values], "w", to=ir.DataType.from_numpy(weight.dtype))


def add_decode(scope: Scope, weight: QuantizedWeight) -> ir.Value:
    """Add the nodes that compute `weight`; returns their last output, of the weight's shape."""
    storage = weight.storage
    size = int(np.prod(weight.shape, dtype=np.int64))
    codes = _codes(scope, weight)
    if weight.codebook.ndim == 2:
        decoded = _gather_by_channel(scope, weight, codes, size)
    else:
        codebook = scope.constant(_padded(weight.codebook, storage.levels), "l")
        if storage.group > 1:
            codebook = scope.apply("Gather", [codebook, _digits(scope, storage)], "t")
        gathered = scope.apply("Gather", [codebook, codes], "w")
        decoded = _shaped(scope, gathered, storage, size, weight.shape)
    if weight.scales is not None:
        axis = weight.plan.weight.channel_axis
        assert axis is not None
        scales = scope.constant(broadcastable(weight.scales, axis, len(weight.shape)), "s")
        decoded = _multiplied(scope, decoded, scales, weight)
    return decoded


def _multiplied(
    scope: Scope, decoded: ir.Value, scales: ir.Value, weight: QuantizedWeight
) -> ir.Value:
    assert weight.scales is not None
    dtype = ir.DataType.from_numpy(weight.codebook.dtype)
    if dtype != ir.DataType.BFLOAT16:
        if weight.scales.dtype != weight.codebook.dtype:
            scales = scope.apply("Cast", [scales], "s", to=dtype)
        return scope.apply("Mul", [decoded, scales], "w")
    # ONNX Runtime multiplies no bfloat16 on the CPU; rounding the float32 product is the same.
    factors = [
        scope.apply("Cast", [factor], "f", to=ir.DataType.FLOAT) for factor in (decoded, scales)
    ]
    product = scope.apply("Mul", factors, "f")
    return scope.apply("Cast", [product], "w", to=ir.DataType.BFLOAT16)


def _padded(codebook: NDArray[np.generic], levels: int) -> NDArray[np.generic]:
    """Repeat the last level of [..., k] until there are `levels`."""
    missing = levels - codebook.shape[-1]
    if missing <= 0:
        return codebook
    return np.concatenate([codebook, np.repeat(codebook[..., -1:], missing, axis=-1)], axis=-1)


def _codes(scope: Scope, weight: QuantizedWeight) -> ir.Value:
    """Return the int32 codes: [blocks, block], or [codes] with a single plane."""
    storage = weight.storage
    low = weight.planes[0]
    block = storage.block
    if block > 1:
        low = low.reshape(-1, block)
    codes = scope.apply("Cast", [scope.constant(low, "i")], "c", to=ir.DataType.INT32)
    shift = 8
    for bits, plane in zip(storage.plane_bits[1:], weight.planes[1:], strict=True):
        table = _plane_digits(scope, bits, shift)
        packed = scope.apply("Cast", [scope.constant(plane, "i")], "c", to=ir.DataType.INT32)
        part = scope.apply("Gather", [table, packed], "c")
        if 8 // bits != block:
            part = scope.apply("Reshape", [part, scope.integers((-1, block), np.int64)], "c")
        codes = scope.apply("Add", [codes, part], "c")
        shift += bits
    return codes


def _gather_by_channel(
    scope: Scope, weight: QuantizedWeight, codes: ir.Value, size: int
) -> ir.Value:
    """Decode indices, add each channel's offset into the codebooks [channels * k], and gather."""
    storage = weight.storage
    channels, axis = weight.codebook.shape[0], weight.plan.weight.channel_axis
    assert axis is not None
    codebooks = _padded(weight.codebook, storage.levels)
    if storage.group > 1:
        codes = scope.apply("Gather", [_digits(scope, storage), codes], "c")
    indices = _shaped(scope, codes, storage, size, weight.shape)
    offsets = _channel_offsets(scope, channels, codebooks.shape[1], len(weight.shape) - 1 - axis)
    indices = scope.apply("Add", [indices, offsets], "c")
    levels = scope.constant(codebooks.reshape(-1), "l")
    return scope.apply("Gather", [levels, indices], "w")


def _shaped(
    scope: Scope, decoded: ir.Value, storage: Storage, size: int, shape: tuple[int, ...]
) -> ir.Value:
    """Cut the padding at the end off and give the values their shape."""
    if storage.code_count(size) * storage.group != size:
        flat = scope.apply("Reshape", [decoded, scope.integers((-1,), np.int64)], "w")
        bounds = [scope.integers((0,), np.int64), scope.constant(np.array([size]), "n")]
        decoded = scope.apply("Slice", [flat, *bounds], "w")
    return scope.apply("Reshape", [decoded, scope.integers(shape, np.int64)], "w")


def _digits(scope: Scope, storage: Storage) -> ir.Value:
    """Digits of every code: int32 [k^m, m], first weight's digit first."""
    key = ("digits", storage.levels, storage.group)
    if key not in scope.shared:
        scope.shared[key] = _digits_of(scope, storage.rows, storage.levels, storage.group)
    return scope.shared[key]


def _plane_digits(scope: Scope, bits: int, shift: int) -> ir.Value:
    """The parts of codes that a plane's byte holds, in place: int32 [256, 8 / bits]."""
    key = ("plane", bits, shift)
    if key not in scope.shared:
        parts = _digits_of(scope, 256, 2**bits, 8 // bits)
        factor = scope.integers(2**shift, np.int32)
        scope.shared[key] = scope.apply("Mul", [parts, factor], "d")
    return scope.shared[key]


def _digits_of(scope: Scope, rows: int, base: int, count: int) -> ir.Value:
    bounds = [scope.integers(number, np.int32) for number in (0, rows, 1)]
    numbers = scope.apply("Range", bounds, "d")
    column = scope.apply("Reshape", [numbers, scope.integers((-1, 1), np.int64)], "d")
    powers = tuple(base**power for power in range(count - 1, -1, -1))
    parts = scope.apply("Div", [column, scope.integers(powers, np.int32)], "d")
    return scope.apply("Mod", [parts, scope.integers(base, np.int32)], "d")


def _channel_offsets(scope: Scope, channels: int, levels: int, trailing: int) -> ir.Value:
    """First level of each channel: int32 [channels, 1, ..., 1] with `trailing` ones."""
    key = ("offsets", channels, levels, trailing)
    if key not in scope.shared:
        bounds = [scope.integers(n, np.int32) for n in (0, channels * levels, levels)]
        offsets = scope.apply("Range", bounds, "o")
        shape = scope.integers((channels,) + (1,) * trailing, np.int64)
        scope.shared[key] = scope.apply("Reshape", [offsets, shape], "o")
    return scope.shared[key]

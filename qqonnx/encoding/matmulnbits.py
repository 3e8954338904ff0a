"""Weights that stay packed in memory: ONNX Runtime's own operator MatMulNBits.

It is no standard ONNX operator (domain com.microsoft), takes MatMul and Gemm only, and decodes
uniform levels: each block of `BLOCK` weights along the inner dimension has a scale and a zero
point. In exchange the weights are never decoded as a whole, in memory neither.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.codebooks import distortion
from qqonnx.encoding.encode import digest
from qqonnx.encoding.rewrite import METADATA_KEY, fresh_names, short
from qqonnx.errors import QqonnxError
from qqonnx.model.scopes import holders, number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.model.select import Weight

BLOCK = 32
"""Weights that share a scale; the kernels take 16, 32, 64, ..., and 32 is what others write."""

BITS = (4, 8)
"""Bit-widths that the CPU kernels of ONNX Runtime have."""

GRANULARITY = "block"
"""What the model's metadata call it."""

_DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class BlockedWeight:
    """A weight [K, N] as MatMulNBits takes it.

    Attributes:
        name: the weight's name.
        size: K and N.
        bits: bits a code, 4 or 8.
        packed: uint8 [N, ceil(K / BLOCK), BLOCK * bits / 8], low nibble first.
        scales: float32 [N, ceil(K / BLOCK)].
        zero_points: uint8 [N, ceil(ceil(K / BLOCK) * bits / 8)], low nibble first.
    """

    name: str
    size: tuple[int, int]
    bits: int
    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8]

    @property
    def payload_bytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return self.packed.nbytes + self.scales.nbytes + self.zero_points.nbytes

    @property
    def counts(self) -> NDArray[np.intp]:
        """How often each code occurs: [2^bits]."""
        codes = _nibbles(self.packed) if self.bits == 4 else self.packed
        codes = codes.reshape(self.size[1], -1)[:, : self.size[0]]
        return np.bincount(codes.reshape(-1), minlength=2**self.bits)

    def decoded(self) -> NDArray[np.float32]:
        """Return the weight, float32 [K, N], as the kernel computes it."""
        inner, outer = self.size
        blocks = self.scales.shape[1]
        codes = _nibbles(self.packed) if self.bits == 4 else self.packed
        zeros = _nibbles(self.zero_points)[:, :blocks] if self.bits == 4 else self.zero_points
        steps = codes.reshape(outer, blocks, BLOCK).astype(np.float32) - zeros[..., None]
        values = (steps * self.scales[..., None]).reshape(outer, -1)[:, :inner]
        return np.ascontiguousarray(values.T)

    def digest(self) -> bytes:
        """Return the SHA-256 of the decoded values' bytes."""
        return digest(self.decoded())


def fits(weight: Weight) -> bool:
    """Whether MatMulNBits can stand for every node that uses the weight."""
    value = weight.value
    if weight.tensor.dtype != ir.DataType.FLOAT or len(weight.shape) != 2:
        return False
    if isinstance(weight.graph, ir.Function) or value.is_graph_output():
        return False
    uses = list(value.uses())
    return (
        bool(uses)
        and all(_takes_place_of(node, index) for node, index in uses)
        and (len({number_of(node, "transB", 0) for node, _ in uses}) == 1)
    )


def block(weight: Weight, bits: int) -> BlockedWeight:
    """Quantize a weight by blocks: the range of each block, zero included, in 2^bits levels.

    Raises:
        QqonnxError: `bits` is not in `BITS`, or a value is NaN or infinite.
    """
    if bits not in BITS:
        raise QqonnxError(
            f"--operators matmulnbits takes 4 or 8 bits, not {bits} (weight {weight.name!r})"
        )
    rows = inner_by_outer(weight).T
    if not np.isfinite(rows).all():
        raise QqonnxError(f"weight {weight.name!r}: has values that are not finite")
    outer, inner = rows.shape
    blocks = -(-inner // BLOCK)
    padded = np.zeros((outer, blocks * BLOCK), np.float64)
    padded[:, :inner] = rows
    padded = padded.reshape(outer, blocks, BLOCK)
    top = 2**bits - 1
    low, high = np.minimum(padded.min(axis=2), 0), np.maximum(padded.max(axis=2), 0)
    scales = ((high - low) / top).astype(np.float32)
    scales[scales == 0] = 1
    zeros = np.clip(np.rint(-low / scales), 0, top)
    codes = np.clip(np.rint(padded / scales[..., None]) + zeros[..., None], 0, top).astype(np.uint8)
    zero_points = zeros.astype(np.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
        zero_points = np.pad(zero_points, ((0, 0), (0, blocks % 2)))
        zero_points = zero_points[:, 0::2] | zero_points[:, 1::2] << 4
    return BlockedWeight(weight.name, (inner, outer), bits, codes, scales, zero_points)


def inner_by_outer(weight: Weight) -> NDArray[np.float32]:
    """Return the values of a weight that `fits`, [K, N]; Gemm may hold them the other way round."""
    node, _ = next(iter(weight.value.uses()))
    values = weight.tensor.numpy()
    return np.ascontiguousarray(values.T if number_of(node, "transB", 0) else values)


def rewrite(model: ir.Model, weights: Sequence[tuple[Weight, BlockedWeight]]) -> None:
    """Put MatMulNBits nodes in place of those that use the weights, and record it."""
    if not weights:
        return
    fresh_name = fresh_names(model)
    content = json.loads(model.metadata_props[METADATA_KEY])
    for weight, blocked in weights:
        error = distortion(inner_by_outer(weight), blocked.decoded())
        content["weights"][weight.name] = {
            "method": "uq",
            "levels": 2**blocked.bits,
            "granularity": GRANULARITY,
            "l1": short(error.l1),
            "l2": short(error.l2),
            "sqnr": short(min(error.sqnr, 999.0)),
        }
        old, name = weight.value, weight.name
        nodes = [node for node, _ in old.uses()]
        producer = old.producer()
        assert isinstance(weight.graph, ir.Graph)
        if producer is None:
            del weight.graph.initializers[name]
        old.name = None
        arrays: list[NDArray[Any]] = [
            blocked.packed,
            blocked.scales.reshape(-1),
            blocked.zero_points.reshape(-1),
        ]
        names = (name, fresh_name("s"), fresh_name("z"))
        constants = []
        for array, label in zip(arrays, names, strict=True):
            tensor = ir.Tensor(array, name=label)
            kind = ir.TensorType(tensor.dtype)
            value = ir.Value(name=label, shape=tensor.shape, type=kind, const_value=tensor)
            weight.graph.register_initializer(value)
            constants.append(value)
        for node in nodes:
            _replace(node, constants, blocked, fresh_name("m"))
        if producer is not None:
            weight.graph.remove(producer)
    model.graph.opset_imports[_DOMAIN] = 1
    model.metadata_props[METADATA_KEY] = json.dumps(
        content, separators=(",", ":"), ensure_ascii=False
    )


def blocked_weights(model: ir.Model, records: dict[str, Any]) -> dict[str, list[ir.Node]]:
    """Return the nodes that use each weight of `records` that is stored by blocks."""
    names = {name for name, record in records.items() if record.get("granularity") == GRANULARITY}
    found: dict[str, list[ir.Node]] = {}
    for holder in (model.graph, *model.graph.subgraphs()):
        for node in holder:
            if node.op_type == "MatMulNBits" and node.domain == _DOMAIN:
                packed = node.inputs[1] if len(node.inputs) >= 4 else None
                if packed is not None and packed.name in names:
                    found.setdefault(packed.name or "", []).append(node)
    return found


def scales_of_blocks(model: ir.Model) -> set[ir.Value]:
    """Return the scales of every MatMulNBits node: floats, but no weights."""
    return {
        value
        for holder in holders(model)
        for node in holder
        if node.op_type == "MatMulNBits" and node.domain == _DOMAIN
        for value in node.inputs[2:3]
        if value is not None
    }


def read(node: ir.Node) -> BlockedWeight:
    """Return the weight that a MatMulNBits node holds.

    Raises:
        QqonnxError: its attributes and its inputs do not go together.
    """
    try:
        sizes = [node.attributes[key].as_int() for key in ("K", "N", "bits", "block_size")]
        inner, outer, bits, length = sizes
        blocks = -(-inner // BLOCK)
        packed, scales, zero_points = (_constant(value) for value in node.inputs[1:4])
        if bits not in BITS or length != BLOCK or inner < 1 or outer < 1:
            raise ValueError
        value = node.inputs[1]
        assert value is not None
        return BlockedWeight(
            name=value.name or "",
            size=(inner, outer),
            bits=bits,
            packed=packed.astype(np.uint8, casting="no", copy=False).reshape(
                outer, blocks, BLOCK * bits // 8
            ),
            scales=scales.astype(np.float32, casting="no", copy=False).reshape(outer, blocks),
            zero_points=zero_points.astype(np.uint8, casting="no", copy=False).reshape(
                outer, -(-blocks * bits // 8)
            ),
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise QqonnxError(f"node {node.name!r}: a MatMulNBits that does not fit") from error


def restore(nodes: Sequence[ir.Node]) -> None:
    """Put a plain MatMul and its float weight back in place of the nodes of one weight."""
    blocked = read(nodes[0])
    packed = nodes[0].inputs[1]
    assert packed is not None
    graph = packed.graph
    assert isinstance(graph, ir.Graph)
    tensor = ir.Tensor(blocked.decoded(), name=blocked.name)
    constants = [value for node in nodes for value in node.inputs[1:4] if value is not None]
    graph.initializers.pop(blocked.name)
    packed.name = None
    value = ir.Value(
        name=blocked.name,
        shape=tensor.shape,
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    for node in nodes:
        _substitute(node, ir.node("MatMul", [node.inputs[0], value]))
    for constant in constants:
        if not constant.uses():
            graph.initializers.pop(constant.name or "", None)


def _replace(
    node: ir.Node, constants: list[ir.Value], blocked: BlockedWeight, product_name: str
) -> None:
    inner, outer = blocked.size
    attributes = {"K": inner, "N": outer, "bits": blocked.bits, "block_size": BLOCK}
    product = ir.node(
        "MatMulNBits", [node.inputs[0], *constants], attributes, domain=_DOMAIN, name=node.name
    )
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if bias is None:
        _substitute(node, product)
        return
    product.outputs[0].name = product_name
    assert node.graph is not None
    node.graph.insert_before(node, product)
    _substitute(node, ir.node("Add", [product.outputs[0], bias]))


def _substitute(old: ir.Node, new: ir.Node) -> None:
    """Put `new` where `old` is; its output takes the old one's name, type and shape."""
    before, after = old.outputs[0], new.outputs[0]
    after.type, after.shape, name = before.type, before.shape, before.name
    graph = old.graph
    assert graph is not None
    graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    before.name = None
    after.name = name


def _takes_place_of(node: ir.Node, index: int) -> bool:
    if node.domain != "" or index != 1 or node.op_type not in ("MatMul", "Gemm"):
        return False
    if node.op_type == "MatMul":
        return True
    factors = [number_of(node, key, 1.0) for key in ("alpha", "beta")]
    known = factors == [1.0, 1.0] and number_of(node, "transA", 0) == 0
    return known and number_of(node, "transB", 0) is not None


def _constant(value: ir.Value | None) -> NDArray[Any]:
    tensor = value.const_value if value is not None else None
    if tensor is None:
        raise ValueError
    return tensor.numpy()


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pairs = np.stack([packed & 15, packed >> 4], axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)

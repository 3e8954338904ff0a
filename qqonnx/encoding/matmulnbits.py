"""Weights that stay packed in memory, in ONNX Runtime's operator MatMulNBits.

The operator is not standard ONNX (domain com.microsoft), and it replaces only MatMul and Gemm. In
return, the weights are never decoded as a whole, not even in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.codebooks import distortion
from qqonnx.encoding.blocks import BITS, BLOCK_LENGTH, Blocks, quantize_blocks
from qqonnx.encoding.stored import BLOCK, BlockWeight, digest
from qqonnx.errors import OptionError, QqonnxError
from qqonnx.model.scopes import number_of, scopes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from qqonnx.codebooks import Distortion
    from qqonnx.model.scopes import Scope
    from qqonnx.model.select import Weight

_DOMAIN = "com.microsoft"


def fits(weight: Weight) -> bool:
    """Return whether MatMulNBits can replace every node that uses the weight."""
    value = weight.value
    if weight.tensor.dtype != ir.DataType.FLOAT or len(weight.shape) != 2:
        return False
    if isinstance(weight.scope, ir.Function) or value.is_graph_output():
        return False
    uses = list(value.uses())
    return (
        bool(uses)
        and all(_is_replaceable(node, index) for node, index in uses)
        and len({number_of(node, "transB", 0) for node, _ in uses}) == 1
    )


def encode_blocks(weight: Weight, bits: int) -> BlockWeight:
    """Quantize a weight in blocks; the weight must satisfy `fits`.

    Raises:
        OptionError: `bits` is not in `BITS`.
        QqonnxError: a value is NaN or infinite.
    """
    if bits not in BITS:
        raise OptionError("bits", f"matmulnbits takes 4 or 8, not {bits} (weight {weight.name!r})")
    # Gemm can have the weight transposed.
    node, _ = next(iter(weight.value.uses()))
    values = weight.tensor.numpy()
    values = np.ascontiguousarray(values.T if number_of(node, "transB", 0) else values)
    if not np.isfinite(values).all():
        raise QqonnxError(f"weight {weight.name!r}: some values are not finite")
    blocks = quantize_blocks(values, bits)
    return _block_weight(weight.name, blocks, distortion(values, blocks.decoded()))


def rewrite(
    model: ir.Model,
    weight: BlockWeight,
    old: ir.Value,
    scope: Scope,
    fresh_name: Callable[[str], str],
) -> None:
    """Replace the nodes that use a weight by MatMulNBits nodes.

    Args:
        model: the model, changed in place.
        weight: the stored weight.
        old: the float weight.
        scope: the graph that contains it.
        fresh_name: function that returns names that the model does not have.
    """
    assert isinstance(scope, ir.Graph)
    nodes = [node for node, _ in old.uses()]
    producer = old.producer()
    if producer is None:
        del scope.initializers[weight.name]
    old.name = None
    blocks = weight.blocks
    constants = [
        _add_initializer(scope, weight.name, blocks.packed),
        _add_initializer(scope, fresh_name("s"), blocks.scales.reshape(-1)),
        _add_initializer(scope, fresh_name("z"), blocks.zero_points.reshape(-1)),
    ]
    for node in nodes:
        _replace(node, constants, weight, fresh_name("m"))
    if producer is not None:
        scope.remove(producer)
    model.graph.opset_imports[_DOMAIN] = 1


def block_nodes(model: ir.Model, names: Collection[str]) -> dict[str, list[ir.Node]]:
    """Return the MatMulNBits nodes of the weights in `names`, by the weight's name."""
    nodes: dict[str, list[ir.Node]] = {}
    for node in _all_nodes(model):
        packed = node.inputs[1] if len(node.inputs) >= 4 else None
        if packed is not None and packed.name in names:
            nodes.setdefault(packed.name or "", []).append(node)
    return nodes


def block_scales(model: ir.Model) -> set[ir.Value]:
    """Return the scales and zero points of all MatMulNBits nodes, which are not weights."""
    values = (value for node in _all_nodes(model) for value in node.inputs[2:4])
    return {value for value in values if value is not None}


def read_blocks(node: ir.Node, error: Distortion) -> BlockWeight:
    """Return the weight of a MatMulNBits node.

    Args:
        node: the node.
        error: error of the weight, from the record.

    Raises:
        QqonnxError: the attributes and inputs of the node do not match.
    """
    try:
        sizes = [node.attributes[key].as_int() for key in ("K", "N", "bits", "block_size")]
        inner, outer, bits, length = sizes
        count = -(-inner // BLOCK_LENGTH)
        if bits not in BITS or length != BLOCK_LENGTH or inner < 1 or outer < 1:
            raise ValueError
        value = node.inputs[1]
        assert value is not None
        packed = _constant(value, np.uint8, (outer, count, BLOCK_LENGTH * bits // 8))
        scales = _constant(node.inputs[2], np.float32, (outer, count))
        zero_points = _constant(node.inputs[3], np.uint8, (outer, -(-count * bits // 8)))
        blocks = Blocks(inner, bits, packed, scales, zero_points)
        return _block_weight(value.name or "", blocks, error)
    except (AssertionError, IndexError, KeyError, TypeError, ValueError) as fault:
        raise QqonnxError(f"MatMulNBits node {node.name!r} does not fit its weight") from fault


def restore_blocks(nodes: Sequence[ir.Node], weight: BlockWeight) -> NDArray[np.float32]:
    """Replace the MatMulNBits nodes of one weight by MatMul nodes and the float weight.

    Returns:
        The weight as the kernel decodes it: float32 [K, N].
    """
    packed = nodes[0].inputs[1]
    assert packed is not None
    graph = packed.graph
    assert isinstance(graph, ir.Graph)
    constants = [value for node in nodes for value in node.inputs[1:4] if value is not None]
    graph.initializers.pop(weight.name)
    packed.name = None
    values = weight.blocks.decoded()
    value = _add_initializer(graph, weight.name, values)
    for node in nodes:
        _substitute(node, ir.node("MatMul", [node.inputs[0], value]))
    for constant in constants:
        if not constant.uses():
            graph.initializers.pop(constant.name or "", None)
    return values


def _block_weight(name: str, blocks: Blocks, error: Distortion) -> BlockWeight:
    return BlockWeight(
        name=name,
        shape=(blocks.inner, len(blocks.scales)),
        dtype=ir.DataType.FLOAT,
        method="uq",
        granularity=BLOCK,
        levels=2**blocks.bits,
        bits=blocks.bits,
        counts=blocks.counts,
        error=error,
        payload_bytes=blocks.nbytes,
        digest=lambda: digest(blocks.decoded()),
        blocks=blocks,
    )


def _all_nodes(model: ir.Model) -> list[ir.Node]:
    return [
        node
        for scope in scopes(model)
        for node in scope
        if node.op_type == "MatMulNBits" and node.domain == _DOMAIN
    ]


def _add_initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=tensor.shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def _replace(
    node: ir.Node, constants: list[ir.Value], weight: BlockWeight, product_name: str
) -> None:
    inner, outer = weight.shape
    attributes = {"K": inner, "N": outer, "bits": weight.blocks.bits, "block_size": BLOCK_LENGTH}
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
    """Replace node `old` by `new`, whose output gets the name, type and shape of the old output."""
    before, after = old.outputs[0], new.outputs[0]
    after.type, after.shape, name = before.type, before.shape, before.name
    graph = old.graph
    assert graph is not None
    graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    before.name = None
    after.name = name


def _is_replaceable(node: ir.Node, index: int) -> bool:
    if node.domain != "" or index != 1 or node.op_type not in ("MatMul", "Gemm"):
        return False
    if node.op_type == "MatMul":
        return True
    factors = [number_of(node, key, 1.0) for key in ("alpha", "beta")]
    known = factors == [1.0, 1.0] and number_of(node, "transA", 0) == 0
    return known and number_of(node, "transB", 0) is not None


def _constant(value: ir.Value | None, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    tensor = value.const_value if value is not None else None
    if tensor is None:
        raise ValueError
    return tensor.numpy().astype(dtype, casting="no", copy=False).reshape(shape)

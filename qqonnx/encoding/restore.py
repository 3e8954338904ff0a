"""Replace stored weights by plain floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from qqonnx.encoding.locate import DecodeGraph, decode_graphs, decoder
from qqonnx.encoding.matmulnbits import block_nodes, read_blocks, restore_blocks
from qqonnx.encoding.record import METADATA_KEY, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    OnDecoded = Callable[[str, NDArray[Any]], None]


def restore_weights(model: ir.Model, on_decoded: OnDecoded = lambda *_: None) -> int:
    """Replace all stored weights by plain floats, and return their number.

    Most weights are decoded only when the model is written, and are not kept in memory.

    Args:
        model: the model, changed in place.
        on_decoded: function called with the name and the values of each weight when it is decoded.

    Raises:
        QqonnxError: the model was not compressed by qqonnx, its record is damaged, or a weight is
            computed by nodes that are not decode nodes.
    """
    records = read_record(model).weights
    blocks = block_nodes(model, records)
    graphs = list(decode_graphs(model, records.keys() - blocks.keys()))
    for name, nodes in blocks.items():
        on_decoded(name, restore_blocks(nodes, read_blocks(nodes[0], records[name].error)))
    tensors = [_lazy_tensor(graph, on_decoded) for graph in graphs]
    for graph, tensor in zip(graphs, tensors, strict=True):
        _put_back(graph, tensor)
    _remove_unused(graphs)
    del model.metadata_props[METADATA_KEY]
    return len(graphs) + len(blocks)


def _lazy_tensor(graph: DecodeGraph, on_decoded: OnDecoded) -> ir.LazyTensor:
    decode = decoder(graph)
    # The tensor must not refer to the graph, so that packed weights are released one by one.
    name, dtype, shape = graph.name, graph.dtype, ir.Shape(graph.shape)

    def evaluate() -> ir.TensorProtocol:
        values = decode()
        on_decoded(name, values)
        return ir.Tensor(values, dtype=dtype, name=name)

    return ir.LazyTensor(evaluate, dtype, shape, name=name)


def _put_back(graph: DecodeGraph, tensor: ir.LazyTensor) -> None:
    old = graph.value
    old.name = None
    if isinstance(graph.scope, ir.Function):
        node = ir.node("Constant", [], {"value": tensor})
        graph.scope.insert_before(graph.scope[0], node)
        new = node.outputs[0]
        new.name = graph.name
    else:
        new = ir.Value(name=graph.name, type=old.type, shape=old.shape, const_value=tensor)
        graph.scope.register_initializer(new)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _remove_unused(graphs: Sequence[DecodeGraph]) -> None:
    for graph in graphs:
        for node in reversed(graph.nodes):
            unused = not any(output.uses() for output in node.outputs)
            if node.graph is not None and unused:
                node.graph.remove(node, safe=True)
    for graph in graphs:
        for constant in graph.constants:
            if not constant.uses() and isinstance(graph.scope, ir.Graph):
                graph.scope.initializers.pop(constant.name or "", None)

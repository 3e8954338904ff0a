"""The part of a model that some weights affect, so that runs with other weights start there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.calibration.session import extended_session, extracted
from qqonnx.errors import QqonnxError
from qqonnx.model.session import run_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Tail:
    """The part of a model that some weights affect.

    Attributes:
        model: a model with this part; its inputs are what the part reads.
        feeds: the inputs of its runs.
    """

    model: ir.Model
    feeds: tuple[Feed, ...]


def affected_tail(
    model: ir.Model, weights: Sequence[ir.Value], outputs: Sequence[str], feeds: Sequence[Feed]
) -> Tail:
    """Return the part of a model that computes `outputs` from the weights and what comes before.

    What comes before is computed here, once. If it holds anything but tensors, or the weights do
    not affect every output, the tail is the whole model.

    Args:
        model: the model.
        weights: initializers of its main graph.
        outputs: names of outputs of the model.
        feeds: inputs of the runs.
    """
    whole = Tail(model, tuple(feeds))
    wanted = [value for value in model.graph.outputs if value.name in outputs]
    affected, given = _affected(model.graph, weights)
    if any(value not in affected for value in wanted):
        return whole
    computed = [value for value in given if not value.is_graph_input()]
    inputs = [value.name or "" for value in given if value.is_graph_input()]
    names = [value.name or "" for value in computed]
    tail_feeds = [{name: feed[name] for name in inputs if name in feed} for feed in feeds]
    try:
        if computed:
            with extended_session(model, outputs=computed, cut=True) as session:
                for feed, tail_feed in zip(feeds, tail_feeds, strict=True):
                    tail_feed |= dict(zip(names, run_session(session, feed, names), strict=True))
        part = extracted(model, given, wanted)
    except (QqonnxError, ValueError):
        return whole
    tensors = all(isinstance(a, np.ndarray) for feed in tail_feeds for a in feed.values())
    if not tensors or any(weight.name not in part.graph.initializers for weight in weights):
        return whole
    for value in part.graph.inputs:
        if value.name in names:
            array = tail_feeds[0][value.name or ""]
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = None
    return Tail(part, tuple(tail_feeds))


def _affected(graph: ir.Graph, weights: Sequence[ir.Value]) -> tuple[set[ir.Value], list[ir.Value]]:
    """Return the values that depend on the weights, and the others that their nodes read.

    Constants are not among the others.
    """
    affected = set(weights)
    read: dict[ir.Value, None] = {}
    for node in graph:
        values = list(_read_by(node, graph))
        if any(value in affected for value in values):
            affected.update(node.outputs)
            read |= dict.fromkeys(values)
    return affected, [v for v in read if v not in affected and not _is_constant(v)]


def _read_by(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of the graph that a node reads, also within its subgraphs."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        subgraphs = []
        if attribute.type == ir.AttributeType.GRAPH:
            subgraphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            subgraphs = list(attribute.as_graphs())
        for subgraph in subgraphs:
            for inner in ir.traversal.RecursiveGraphIterator(subgraph):
                yield from (v for v in inner.inputs if v is not None and v.graph is graph)


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")

"""Keep equal weights once, also if one is the transpose of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.model.scopes import remove_definition

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from qqonnx.model.select import Weight


def tie_weights(
    model: ir.Model,
    weights: Sequence[Weight],
    kind: Callable[[Weight], Hashable],
    *,
    same_channels: bool,
) -> int:
    """Let the users of equal weights read the first of them, in place.

    The users of a transposed copy read it through a Transpose node. Copies in subgraphs are
    replaced by weights of the same subgraph or of the model's graph.

    Args:
        model: the model.
        weights: weights of the model.
        kind: returns what must be equal for two weights to be one.
        same_channels: whether their output channels must be the same too.

    Returns:
        The number of copies that were removed.
    """
    subgraphs = set(model.graph.subgraphs())
    originals: dict[Hashable, list[Weight]] = {}
    transposed: dict[ir.Value, ir.Value] = {}
    removed = 0
    # Subgraphs can read weights of the model's graph, so these come first.
    for weight in sorted(weights, key=lambda entry: entry.scope is not model.graph):
        if isinstance(weight.scope, ir.Function) or weight.value.is_graph_output():
            continue
        alike = originals.setdefault((kind(weight), _fingerprint(weight)), [])
        for original in alike:
            visible = weight.scope is original.scope or (
                original.scope is model.graph and weight.scope in subgraphs
            )
            flipped = _flipped(original, weight)
            if not visible or flipped is None:
                continue
            if same_channels and _channel_axis(weight, flipped) != original.channel_axis:
                continue
            _move_first(original)
            source = original.value
            if flipped:
                if source not in transposed:
                    transposed[source] = _transpose(original, weight.name)
                source = transposed[source]
            ir.convenience.replace_all_uses_with(weight.value, source)
            remove_definition(weight.value, weight.scope)
            removed += 1
            break
        else:
            alike.append(weight)
    return removed


def _fingerprint(weight: Weight) -> Hashable:
    """Return a key that is the same for equal weights, and for a matrix and its transpose."""
    array = weight.tensor.numpy()
    if array.ndim == 2:
        return array.dtype.name, *sorted(array.shape), np.diagonal(array).tobytes()
    flat = array.reshape(-1)
    return array.dtype.name, array.shape, flat[:: max(flat.size // 64, 1)].tobytes()


def _flipped(original: Weight, weight: Weight) -> bool | None:
    """Return whether a weight is the transpose of another; None if the two are not equal."""
    first, second = _bits(original), _bits(weight)
    if np.array_equal(first, second):
        return False
    return True if first.ndim == 2 and np.array_equal(first.T, second) else None


def _bits(weight: Weight) -> NDArray[Any]:
    """Return the values as unsigned integers, which are equal only if all bits are."""
    array = np.ascontiguousarray(weight.tensor.numpy())
    return array.view(f"u{array.itemsize}").reshape(weight.shape)


def _channel_axis(weight: Weight, flipped: bool) -> int | None:
    axis = weight.channel_axis
    return 1 - axis if flipped and axis is not None else axis


def _move_first(weight: Weight) -> None:
    """Move a Constant node to the front, so that all nodes can read it."""
    node = weight.value.producer()
    if node is not None and node is not weight.scope[0]:
        weight.scope.remove(node)
        weight.scope.insert_before(weight.scope[0], node)


def _transpose(weight: Weight, name: str) -> ir.Value:
    node = ir.node("Transpose", [weight.value], {"perm": [1, 0]})
    (output,) = node.outputs
    output.name = name
    shape = weight.shape[::-1]
    output.type, output.shape = ir.TensorType(weight.tensor.dtype), ir.Shape(shape)
    producer = weight.value.producer()
    if producer is not None:
        weight.scope.insert_after(producer, node)
    else:
        weight.scope.insert_before(weight.scope[0], node)
    return output

"""Decode many small weights of one shape together.

The cost of a node when a model loads does not depend on its size, and thousands of small weights
would have thousands of nodes. So small weights with the same shape and layout are stored as one
tensor, the stack. It is decoded once, and one Split gives all weights:

    indices = Reshape(Gather(D, codes))                    [weights, *shape]
    stack   = Gather(codebooks, indices + offsets)         [* scales]
    w1, w2, ... = Split(Reshape(stack, [weights * rows, ...]), axis=0)

D are the digits of the codes, as in `qqonnx.encoding.decode`. The offset of a weight, or of one of
its channels, is the position of its first level.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qqonnx.encoding.builder import Builder, integers
from qqonnx.encoding.decode import add_indices, multiplied, padded, reshaped
from qqonnx.encoding.packing import pack, unpack
from qqonnx.encoding.stored import CodebookWeight

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from qqonnx.encoding.stored import StoredWeight
    from qqonnx.model.scopes import Scope

LARGEST = 2**12
"""Largest number of elements of a weight in a stack; see docs/performance.md."""

FEWEST = 16
"""Smallest number of weights in a stack; see docs/performance.md."""

MOST_VALUES = 2**24
"""Largest number of elements of a stack: all are in memory at once when it is decoded."""


def stacks(weights: Sequence[StoredWeight], scopes: Sequence[Scope]) -> list[list[CodebookWeight]]:
    """Return the weights that are decoded together, by stack.

    Args:
        weights: the weights to store.
        scopes: graph or function of each weight. A function cannot hold a stack.
    """
    alike: defaultdict[Hashable, list[CodebookWeight]] = defaultdict(list)
    for weight, scope in zip(weights, scopes, strict=True):
        if not isinstance(weight, CodebookWeight) or weight.is_integer:
            continue
        if isinstance(scope, ir.Function):
            continue
        if weight.shape and prod(weight.shape) <= LARGEST:
            scales = weight.scales.dtype if weight.scales is not None else None
            layout = (weight.storage, weight.codebook.shape, weight.channel_axis, scales)
            alike[scope, weight.shape, weight.dtype, layout].append(weight)
    found = []
    for group in alike.values():
        most = MOST_VALUES // prod(group[0].shape)
        parts = [group[start : start + most] for start in range(0, len(group), most)]
        found += [part for part in parts if len(part) >= FEWEST]
    return found


def add_stack(builder: Builder, weights: Sequence[CodebookWeight]) -> list[ir.Value]:
    """Add the nodes that decode weights with the same shape and layout; return their values."""
    stack = _joined(weights)
    shape = stack.shape
    indices = add_indices(builder, stack, shape)
    levels = builder.constant(stack.codebook.reshape(-1), "l")
    offsets = _offsets(builder, stack)
    indices = builder.apply("Add", [indices, offsets], "c")
    decoded = builder.apply("Gather", [levels, indices], "w")
    if stack.scales is not None:
        decoded = multiplied(builder, decoded, builder.constant(stack.scales, "s"), stack)
    count, rows, *others = shape
    decoded = reshaped(builder, decoded, (count * rows, *others))
    return builder.split(decoded, builder.constant(np.full(count, rows, np.int64), "n"), count)


def _joined(weights: Sequence[CodebookWeight]) -> CodebookWeight:
    """Return weights as one weight of shape [weights, *shape].

    Its codebook is [weights, levels] or [weights, channels, levels]; its scales can be multiplied
    with it.
    """
    first = weights[0]
    size = prod(first.shape)
    indices = [unpack(weight.planes, weight.storage, size) for weight in weights]
    axes = [-1 if axis == first.channel_axis else 1 for axis in range(len(first.shape))]
    scales = [weight.scales.reshape(axes) for weight in weights if weight.scales is not None]
    return replace(
        first,
        shape=(len(weights), *first.shape),
        planes=pack(np.concatenate(indices), first.storage),
        codebook=np.stack([padded(weight.codebook, first.storage.levels) for weight in weights]),
        scales=np.stack(scales) if scales else None,
    )


def _offsets(builder: Builder, stack: CodebookWeight) -> ir.Value:
    """Add the position of the first level of each codebook: int32, as many axes as the stack."""
    count, *shape = stack.shape
    *_, levels = stack.codebook.shape
    bounds = [integers(builder, n, np.int32) for n in (0, stack.codebook.size, levels)]
    axes = [1] * len(shape)
    if stack.codebook.ndim == 3:
        assert stack.channel_axis is not None
        axes[stack.channel_axis] = shape[stack.channel_axis]
    return reshaped(builder, builder.apply("Range", bounds, "o"), (count, *axes))

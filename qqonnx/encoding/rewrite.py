"""Replace the weights of a model by their stored form, and write the record."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.encoding import matmulnbits
from qqonnx.encoding.builder import Builder
from qqonnx.encoding.decode import add_decode, add_rounded
from qqonnx.encoding.record import write_record
from qqonnx.encoding.stack import add_stack, stacks
from qqonnx.encoding.stored import BlockWeight, CodebookWeight, RoundedWeight, StoredWeight
from qqonnx.model.scopes import (
    WEIGHT_TYPES,
    Scope,
    named_constants,
    remove_definition,
    value_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def rewrite(model: ir.Model, weights: Sequence[StoredWeight]) -> None:
    """Replace weights of a model, in place, by their stored form.

    Weights are found by name. The output of the last decode node gets the weight's name and all its
    uses.
    """
    fresh_name = fresh_names(model)
    constants = {
        name: (value, scope) for name, value, scope in named_constants(model, WEIGHT_TYPES)
    }
    builders: dict[Scope, Builder] = {}
    stacked: set[str] = set()
    for stack in stacks(weights, [constants[weight.name][1] for weight in weights]):
        scope = constants[stack[0].name][1]
        builder = builders.setdefault(scope, Builder(fresh_name, in_function=False))
        for part, decoded in zip(stack, add_stack(builder, stack), strict=True):
            stacked.add(part.name)
            _replace(constants[part.name][0], scope, decoded, part.name)
    for weight in weights:
        if weight.name in stacked:
            continue
        value, scope = constants[weight.name]
        if isinstance(weight, BlockWeight):
            matmulnbits.rewrite(model, weight, value, scope, fresh_name)
            continue
        in_function = isinstance(scope, ir.Function)
        builder = builders.setdefault(scope, Builder(fresh_name, in_function))
        if isinstance(weight, CodebookWeight):
            decoded = add_decode(builder, weight)
        else:
            assert isinstance(weight, RoundedWeight)
            decoded = add_rounded(builder, weight)
        _replace(value, scope, decoded, weight.name)
    for scope, builder in builders.items():
        _insert(scope, builder)
    write_record(model, weights)


def fresh_names(model: ir.Model) -> Callable[[str], str]:
    """Return a function from a prefix to new names: "i0", "i1", ... for the prefix "i"."""
    used = set(value_names(model))
    counters: defaultdict[str, Iterator[int]] = defaultdict(count)

    def fresh_name(prefix: str) -> str:
        name = next(name for n in counters[prefix] if (name := f"{prefix}{n}") not in used)
        used.add(name)
        return name

    return fresh_name


def _replace(old: ir.Value, scope: Scope, decoded: ir.Value, name: str) -> None:
    if old.is_graph_output():
        decoded.type, decoded.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, decoded, replace_graph_outputs=True)
    remove_definition(old, scope)
    old.name = None
    decoded.name = name


def _insert(scope: Scope, builder: Builder) -> None:
    if isinstance(scope, ir.Graph):
        for value in builder.initializers:
            scope.register_initializer(value)
    if len(scope):
        scope.insert_before(scope[0], builder.nodes)
    else:
        scope.extend(builder.nodes)
    # Insertion names the nodes; without names the file is smaller.
    for node in builder.nodes:
        node.name = ""

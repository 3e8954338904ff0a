"""Put decode nodes where the weights were, and record in the model what was done."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from qqonnx.encoding.builder import Builder
from qqonnx.encoding.decode import add_decode, add_rounded
from qqonnx.encoding.encode import FLOAT16, QuantizedWeight, RoundedWeight
from qqonnx.model.scopes import Holder, value_names
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

METADATA_KEY = "qqonnx"
"""Key in the model's metadata: JSON with the version and, for each weight, what was done."""


def rewrite(model: ir.Model, weights: Sequence[QuantizedWeight | RoundedWeight]) -> None:
    """Replace each weight of `model`, in place, by indices, a codebook and decode nodes.

    The last decode node's output takes the weight's name, and whatever used the weight uses the
    decoded one.
    """
    fresh_name = fresh_names(model)
    builders: dict[int, Builder] = {}
    for weight in weights:
        holder = weight.plan.weight.graph
        in_function = isinstance(holder, ir.Function)
        builder = builders.setdefault(id(holder), Builder(fresh_name, in_function))
        if isinstance(weight, RoundedWeight):
            _replace(weight, add_rounded(builder, weight))
        else:
            _replace(weight, add_decode(builder, weight))
    holders = {id(weight.plan.weight.graph): weight.plan.weight.graph for weight in weights}
    for key, holder in holders.items():
        _insert(holder, builders[key])
    model.metadata_props[METADATA_KEY] = _metadata(weights)


def _replace(weight: QuantizedWeight | RoundedWeight, decoded: ir.Value) -> None:
    old = weight.plan.weight.value
    if old.is_graph_output():
        decoded.type, decoded.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, decoded, replace_graph_outputs=True)
    holder, name = weight.plan.weight.graph, old.name
    producer = old.producer()
    if producer is not None:
        holder.remove(producer)
    else:
        assert isinstance(holder, ir.Graph)
        assert name is not None
        del holder.initializers[name]
    old.name = None
    decoded.name = weight.plan.weight.name


def _insert(holder: Holder, builder: Builder) -> None:
    if isinstance(holder, ir.Graph):
        for value in builder.initializers:
            holder.register_initializer(value)
    names = {id(node): node.name for node in builder.nodes}
    if len(holder):
        holder.insert_before(holder[0], builder.nodes)
    else:
        holder.extend(builder.nodes)
    for node in builder.nodes:
        node.name = names[id(node)]


def _metadata(weights: Sequence[QuantizedWeight | RoundedWeight]) -> str:
    """Return the record: what most weights have in common once, and what each has of its own."""
    kinds = [_kind(weight) for weight in weights]
    common = max(kinds, key=kinds.count, default={})
    records: dict[str, Any] = {}
    for weight, kind in zip(weights, kinds, strict=True):
        error = weight.error
        own = {key: value for key, value in kind.items() if common.get(key) != value}
        numbers = [short(error.l1), short(error.l2), short(min(error.sqnr, 999.0))]
        records[weight.plan.weight.name] = [*numbers, own] if own else numbers
    content = {"version": __version__, "common": common, "weights": records}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def _kind(weight: QuantizedWeight | RoundedWeight) -> dict[str, str | int]:
    if isinstance(weight, RoundedWeight):
        return {"method": FLOAT16}
    return {
        "method": weight.plan.method,
        "levels": weight.codebook.shape[-1],
        "granularity": weight.plan.granularity,
    }


def expanded(record: list[Any], common: dict[str, Any]) -> dict[str, Any]:
    """Return a weight's record as {"method", "levels", "granularity", "l1", "l2", "sqnr"}.

    Raises:
        TypeError, ValueError: it is no such record.
    """
    numbers, own = record[:3], record[3] if len(record) > 3 else {}
    return {**common, **dict(zip(("l1", "l2", "sqnr"), numbers, strict=True)), **own}


def short(number: float) -> float:
    """Return the number with four digits, as the record holds it."""
    return float(f"{number:.4g}")


def fresh_names(model: ir.Model) -> Callable[[str], str]:
    """Return a function that gives short names that `model` does not have: "i0", "i1" for "i"."""
    taken = set(value_names(model))
    counters: defaultdict[str, Iterator[int]] = defaultdict(count)

    def fresh(kind: str) -> str:
        while (name := f"{kind}{next(counters[kind])}") in taken:
            pass
        taken.add(name)
        return name

    return fresh

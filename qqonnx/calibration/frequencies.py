"""How often each row of a table, such as an embedding, is read in the calibration inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qqonnx.calibration.session import extended_session
from qqonnx.inputs.masks import padding_mask
from qqonnx.model.session import run_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.context import Context
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.inputs.feeds import Feed
    from qqonnx.model.select import Weight


def with_frequencies(context: Context, weights: Sequence[WeightMatrix]) -> list[WeightMatrix]:
    """Return the weights, with the frequencies of the rows of those that only Gather reads.

    Positions that a mask marks as padding do not count. Synthetic inputs have no typical
    frequencies.

    Raises:
        QqonnxError: the model does not run on the inputs.
    """
    if context.inputs.sample_weight < 1:
        return list(weights)
    read = [(weight, _index_values(weight.weight)) for weight in weights if weight.layer is None]
    tables = [(table, indices) for table, indices in read if indices]
    if not tables:
        return list(weights)
    counts = {table.name: np.zeros((2, table.rows), np.int64) for table, _ in tables}
    values = list(dict.fromkeys(value for _, indices in tables for value in indices))
    for number, (feed, found) in enumerate(_runs(context, values)):
        mask = padding_mask(feed)
        for table, indices in tables:
            for value in indices:
                rows = found[value.name or ""]
                if mask is not None and rows.shape == mask.shape:
                    rows = rows[mask]
                rows = rows.reshape(-1).astype(np.int64) % table.rows
                counts[table.name][number % 2] += np.bincount(rows, minlength=table.rows)
    halves = {name: _halves(found) for name, found in counts.items()}
    return [replace(weight, frequencies=halves.get(weight.name)) for weight in weights]


def relative_frequencies(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the estimated frequency of each row over the mean frequency: float32 [rows].

    Rows that were not read share the frequency of those that were read once.

    Source: Good, *The Population Frequencies of Species and the Estimation of Population
    Parameters*, 1953.

    Args:
        counts: how often each row was read, [rows].
    """
    total, unread = int(counts.sum()), int((counts == 0).sum())
    if not total:
        return np.ones(len(counts), np.float32)
    # If no row was read once, those that were not read still count a little.
    unseen = max(int((counts == 1).sum()), 1) / (total + 1) if unread else 0.0
    shares = counts / total * (1 - unseen)
    shares[counts == 0] = unseen / max(unread, 1)
    return (shares * len(counts)).astype(np.float32)


def _halves(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the frequencies in the first half of the samples, and in all: float32 [2, rows]."""
    return np.stack([relative_frequencies(counts[0]), relative_frequencies(counts.sum(axis=0))])


def _index_values(weight: Weight) -> tuple[ir.Value, ...]:
    """Return the indices of the rows that are read; none if anything else uses the weight."""
    if weight.channel_axis != 0 or not isinstance(weight.scope, ir.Graph):
        return ()
    found: list[ir.Value] = []
    for node, index in weight.value.uses():
        if node.op_type in ("Shape", "Size"):
            continue
        rows = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op_type != "Gather" or index or node.attributes.get_int("axis", 0) or rows is None:
            return ()
        if node.graph is not weight.scope or rows.const_value is not None:
            return ()
        found.append(rows)
    return tuple(dict.fromkeys(found))


def _runs(
    context: Context, values: Sequence[ir.Value]
) -> Iterator[tuple[Feed, Mapping[str, NDArray[np.int64]]]]:
    """Yield the inputs of each run, and the values by name."""
    computed = [value for value in values if not value.is_graph_input()]
    if not computed:
        yield from ((feed, feed) for feed in context.inputs.batches())
        return
    names = [value.name or "" for value in computed]
    with extended_session(context.model, outputs=computed, cut=True) as session:
        for feed in context.inputs.batches():
            outputs = run_session(session, feed, names, name="calibration: the model")
            yield feed, {**feed, **dict(zip(names, outputs, strict=True))}

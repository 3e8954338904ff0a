"""Models that draw random numbers: fixed seeds, so that two of them can be compared."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

RANDOM_OPERATORS = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def with_seeds(path: Path) -> Path | bytes:
    """Return a model whose random nodes have fixed seeds, the same in every version of the model.

    Without a seed of its own, a node draws other numbers in each session of ONNX Runtime.

    Returns:
        The path itself for a model that draws no random numbers; otherwise the serialized model.

    Raises:
        OSError, ValueError: the file cannot be read, or the model is over 2 GB.
    """
    if not _names_random_operator(path):
        return path
    proto = onnx.load(path)
    seed = 0
    for node in _all_nodes([proto.graph.node, *(f.node for f in proto.functions)]):
        if node.op_type in RANDOM_OPERATORS and node.domain in ("", "ai.onnx"):
            seed += 1
            if not any(attribute.name == "seed" for attribute in node.attribute):
                node.attribute.append(onnx.helper.make_attribute("seed", float(seed)))
    return proto.SerializeToString() if seed else path


def _names_random_operator(path: Path) -> bool:
    # Most models draw nothing; a search is many times faster than parsing them.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(name.encode()) >= 0 for name in RANDOM_OPERATORS)


def _all_nodes(scopes: Iterable[Iterable[onnx.NodeProto]]) -> Iterator[onnx.NodeProto]:
    for nodes in scopes:
        for node in nodes:
            yield node
            graphs = [a.g for a in node.attribute if a.HasField("g")]
            graphs += [graph for a in node.attribute for graph in a.graphs]
            yield from _all_nodes(graph.node for graph in graphs)

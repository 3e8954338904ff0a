"""Compare forms of decode nodes by the time and memory that loading them takes.

    python tools/bench_decode.py MODEL [--repeats 5]

Each form decodes the same number of bits of random codes into weights of the model's shapes. The
values of the weights do not matter, only the time and the memory of loading. `tools/bench_load.py`
measures them. `qqonnx.encoding.decode` writes the forms marked with a star, and GatherElements for
rows of 512 weights or more.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from bench_load import machine, ratios_in_turns
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

RNG = np.random.default_rng(0)
MIN_SIZE = 1024
PLANES: dict[int, tuple[int, tuple[int, ...]]] = {
    1: (8, ()),
    2: (4, ()),
    3: (4, (4,)),
    4: (2, ()),
    5: (2, (2,)),
    6: (2, (4,)),
    7: (2, (4, 2)),
    8: (1, ()),
}
"""Bits per weight -> weights per code, and the bits of each plane above the byte plane."""


@dataclass
class Graph:
    """A graph under construction: its nodes and constants."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)

    def constant(self, array: Any) -> str:
        """Add a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def apply(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node with one output."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def cast(self, value: str, kind: int = TensorProto.INT32) -> str:
        """Add a Cast."""
        return self.apply("Cast", [value], to=kind)

    def once(self, array: np.ndarray) -> str:
        """Add a constant that all weights share."""
        key = f"{array.dtype} {array.shape} {hash(array.tobytes())}"
        if key not in self.shared:
            self.shared[key] = self.constant(array)
        return self.shared[key]


def digits(rows: int, base: int, count: int) -> np.ndarray:
    """Return the base-`base` digits of the numbers below `rows`: int32 [rows, count]."""
    powers = base ** np.arange(count - 1, -1, -1)
    return (np.arange(rows)[:, None] // powers % base).astype(np.int32)


def random_bytes(*shape: int) -> np.ndarray:
    """Return random bytes."""
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def looked_up(graph: Graph, codes: str, bits: int, group: int, shape: tuple[int, ...]) -> str:
    """Add a table of rows of levels, a Gather and a Reshape."""
    levels = graph.constant(RNG.standard_normal(2**bits).astype(np.float32))
    if group > 1:
        table = graph.once(digits(2 ** (bits * group), 2**bits, group))
        levels = graph.apply("Gather", [levels, table])
    weights = graph.apply("Gather", [levels, codes])
    return graph.apply("Reshape", [weights, graph.once(np.array(shape))])


def sums(graph: Graph, shape: tuple[int, ...], bits: int) -> str:
    """Add a Cast of the byte plane, and a Gather of int32 for each plane above it."""
    group, above = PLANES[bits]
    block = max([1, *(8 // plane for plane in above)])
    blocks = -(-prod(shape) // (group * block))
    codes = graph.cast(graph.constant(random_bytes(blocks, block)))
    shift = 8
    for plane in above:
        packed = graph.cast(graph.constant(random_bytes(blocks * block * plane // 8)))
        table = graph.once(digits(256, 2**plane, 8 // plane) << shift)
        part = graph.apply("Gather", [table, packed])
        if 8 // plane != block:
            part = graph.apply("Reshape", [part, graph.once(np.array((-1, block)))])
        codes = graph.apply("Add", [codes, part])
        shift += plane
    return looked_up(graph, codes, bits, group, shape)


def products(how: str) -> Callable[[Graph, tuple[int, ...], int], str]:
    """Return a form with MatMulInteger of bytes, whose fields come from Gather or BitShift.

    A shifted field still has the bits above it; the factors of MatMulInteger remove them.
    """

    def form(graph: Graph, shape: tuple[int, ...], bits: int) -> str:
        group, above = PLANES[bits]
        block = max(8 // plane for plane in above)
        blocks = -(-prod(shape) // (group * block))
        parts = [graph.constant(random_bytes(blocks, block))]
        for plane in above:
            width = block * plane // 8
            if how == "Gather":
                packed = graph.cast(graph.constant(random_bytes(blocks * width)))
                table = graph.once(digits(256, 2**plane, 8 // plane).astype(np.uint8))
                part = graph.apply("Gather", [table, packed])
                if 8 // plane != block:
                    part = graph.apply("Reshape", [part, graph.once(np.array((-1, block)))])
                parts.append(part)
                continue
            stored = graph.constant(random_bytes(blocks, width))
            parts.append(stored)
            kind = np.uint8 if how == "BitShift" else np.uint32
            source = stored if kind is np.uint8 else graph.cast(stored, TensorProto.UINT32)
            for amount in range(plane, 8, plane):
                inputs = [source, graph.once(np.array(amount, kind))]
                part = graph.apply("BitShift", inputs, direction="RIGHT")
                parts.append(part if kind is np.uint8 else graph.cast(part, TensorProto.UINT8))
        joined = graph.apply("Concat", parts, axis=1)
        width = block * (1 + len(above))
        if how != "Gather":
            width = block + sum(block * plane // 8 * (8 // plane) for plane in above)
        # The values of the factors do not affect the time, but codes must stay within the table.
        factors = np.zeros((width, block), np.uint8)
        np.fill_diagonal(factors, 2 ** max(bits * group - 8, 0))
        codes = graph.apply("MatMulInteger", [joined, graph.once(factors)])
        return looked_up(graph, codes, bits, group, shape)

    return form


def single(graph: Graph, shape: tuple[int, ...], bits: int) -> str:
    """Add one look-up per weight, in the shape of the weight tensor, without a Reshape."""
    assert bits == 8
    codes = graph.cast(graph.constant(random_bytes(*shape)))
    return graph.apply("Gather", [graph.constant(np.zeros(256, np.float32)), codes])


def along_rows(graph: Graph, shape: tuple[int, ...], bits: int) -> str:
    """Add GatherElements along all weights, which is faster than Gather, and a Reshape."""
    assert bits == 8
    codes = graph.cast(graph.constant(random_bytes(1, prod(shape))))
    inputs = [graph.constant(np.zeros((1, 256), np.float32)), codes]
    decoded = graph.apply("GatherElements", inputs, axis=1)
    return graph.apply("Reshape", [decoded, graph.once(np.array(shape))])


def pairs(graph: Graph, shape: tuple[int, ...], bits: int) -> str:
    """Look up two bytes at once, for weights of any size."""
    group = 16 // bits
    stored = random_bytes(2 * -(-prod(shape) // group)).view("<u2")
    return looked_up(graph, graph.cast(graph.constant(stored)), bits, group, shape)


FORMS: list[tuple[str, Callable[[Graph, tuple[int, ...], int], str], tuple[int, ...]]] = [
    ("Cast, Gather int32, Add; Gather, Reshape (* 1, 2, 4)", sums, (1, 2, 3, 4, 5, 6, 7, 8)),
    ("* Gather bytes, MatMulInteger; Gather, Reshape", products("Gather"), (3, 5, 6, 7)),
    ("BitShift bytes, MatMulInteger; Gather, Reshape", products("BitShift"), (3, 5, 6, 7)),
    ("BitShift uint32, MatMulInteger; Gather, Reshape", products("uint32"), (3, 5, 6, 7)),
    ("* Cast, Gather in the weight's shape", single, (8,)),
    ("Cast, GatherElements, Reshape", along_rows, (8,)),
    ("Cast uint16, Gather, Reshape (* from 2^20 weights on)", pairs, (2, 4, 8)),
]


def built(
    model: onnx.ModelProto, form: Callable[[Graph, tuple[int, ...], int], str], bits: int
) -> bytes:
    """Return the model with every large weight decoded by one form."""
    changed, graph, kept = onnx.ModelProto(), Graph(), []
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        shape = tuple(tensor.dims)
        if len(shape) < 2 or prod(shape) < MIN_SIZE or prod(shape) % 64:
            kept.append(tensor)
            continue
        form(graph, shape, bits)
        graph.nodes[-1].output[0] = tensor.name
    nodes = [*graph.nodes, *model.graph.node]
    del changed.graph.initializer[:], changed.graph.node[:]
    changed.graph.initializer.extend([*kept, *graph.constants])
    changed.graph.node.extend(nodes)
    content: bytes = changed.SerializeToString()
    return content


def table(model: Path, repeats: int) -> str:
    """Measure the forms in turns; return a Markdown table of load time and peak memory ratios."""
    proto = onnx.load(model)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (_, form, widths) in enumerate(FORMS):
            for bits in widths:
                file = files[number, bits] = Path(folder) / f"{number}-{bits}.onnx"
                file.write_bytes(built(proto, form, bits))
        ratios = ratios_in_turns(model, files, repeats, 0)
    lines = ["| form | " + " | ".join(f"{bits} bits" for bits in PLANES) + " |"]
    lines.append("|---" + "|---:" * len(PLANES) + "|")
    for number, (name, _, _) in enumerate(FORMS):
        cells = []
        for bits in PLANES:
            found = ratios.get((number, bits))
            cells.append("" if found is None else f"{found[0]:.2f}; {found[1]:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(table(arguments.model, arguments.repeats))
    print(f"\n{arguments.model.name}; {machine()}; medians of {arguments.repeats}.")


if __name__ == "__main__":
    main()

"""Does the order of levels or of weights make packed indices compress better on the way?

    python tools/bench_transfer.py MODEL [--methods uq,qq,kmeans] [--bits 2,3,4,6,8] [--write FILE]

Takes the packages brotli and zstandard (extra `transfer`). For each method and bit-width it packs
the same indices in several orders and compresses all planes of the model in one stream; sizes are
in percent of the packed bytes. The entropy column is that of single indices: what a coder that
knows nothing of their order could reach.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import numpy as np
import zstandard

from qqonnx.codebooks import assign, fit, index_entropy, method_named
from qqonnx.evaluation.transfer import BROTLI_QUALITY, ZSTD_LEVEL
from qqonnx.graph.load import load
from qqonnx.graph.select import select
from qqonnx.packing import pack, storage_for

if TYPE_CHECKING:
    from collections.abc import Callable

Indices = np.ndarray[Any, np.dtype[np.uint8]]
MIN_SIZE = 1024


def as_it_is(indices: Indices, _: int) -> Indices:
    """Levels ascending, weights in C order: what qqonnx writes."""
    return indices


def by_frequency(indices: Indices, levels: int) -> Indices:
    """The most frequent level is number 0."""
    counts = np.bincount(indices.reshape(-1), minlength=levels)
    rank = np.empty(levels, np.uint8)
    rank[np.argsort(-counts, kind="stable")] = np.arange(levels)
    return rank[indices]


def gray(indices: Indices, levels: int) -> Indices:
    """Neighboring levels differ in one bit, where the levels are a power of two."""
    return indices ^ (indices >> 1) if levels & (levels - 1) == 0 else indices


def channels_last(indices: Indices, _: int) -> Indices:
    """The first axis runs fastest."""
    return np.ascontiguousarray(np.moveaxis(indices, 0, -1))


ORDERS: dict[str, Callable[[Indices, int], Indices]] = {
    "as it is": as_it_is,
    "by frequency": by_frequency,
    "Gray": gray,
    "channels last": channels_last,
}


def main() -> None:
    """Measure every method, bit-width and order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--methods", default="uq,qq,kmeans")
    parser.add_argument("--bits", default="2,3,4,6,8")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    weights = [w for w in select(load(arguments.model))[0] if w.tensor.size >= MIN_SIZE]
    lines = [
        "| method | bits | entropy % | order | gzip % | brotli % | zstd % |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in arguments.methods.split(","):
        for bits in map(int, arguments.bits.split(",")):
            levels = method_named(method).levels_for(bits)
            quantized = [_indices(weight.tensor.numpy(), method, levels) for weight in weights]
            entropy = _entropy(quantized, levels) / storage_for(levels).bits_per_weight
            for name, order in ORDERS.items():
                parts = [order(indices, levels).reshape(-1) for indices in quantized]
                planes = [plane for part in parts for plane in pack(part, storage_for(levels))]
                sizes = " | ".join(f"{size:.1f}" for size in _sizes(b"".join(planes)))
                lines.append(f"| {method} | {bits} | {100 * entropy:.1f} | {name} | {sizes} |")
    text = f"`tools/bench_transfer.py` on {arguments.model.name}:\n\n" + "\n".join(lines) + "\n"
    if arguments.write:
        arguments.write.write_text(text, "utf-8")
    else:
        print(text)


def _indices(values: Any, method: str, levels: int) -> Indices:
    flat = np.ascontiguousarray(values).reshape(-1)
    return assign(flat, fit(flat, method, levels)).reshape(values.shape)


def _entropy(quantized: list[Indices], levels: int) -> float:
    total = sum(indices.size for indices in quantized)
    bits = (i.size * index_entropy(np.bincount(i.reshape(-1), minlength=levels)) for i in quantized)
    return sum(bits) / total


def _sizes(data: bytes) -> list[float]:
    packed = (
        gzip.compress(data, 9),
        brotli.compress(data, quality=BROTLI_QUALITY),
        zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data),
    )
    return [100 * len(part) / len(data) for part in packed]


if __name__ == "__main__":
    main()

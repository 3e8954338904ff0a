"""Compare orders of levels and of weights by how well the packed indices compress.

    python tools/bench_transfer.py MODEL [--methods uq,qq,kmeans] [--bits 2,3,4,6,8]
        [--write docs/deployment.md]

Needs the packages brotli and zstandard (extra `transfer`). For each method and bit-width, the same
indices are packed in several orders, and all planes of the model are compressed as one stream.
Sizes are in percent of the packed bytes. The entropy column is that of single indices: the limit
for a coder that ignores their order. --write puts the table between the markers of a document.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import numpy as np
import zstandard
from sections import write_or_print

from qqonnx.codebooks import assign, fit, index_entropy, method_named
from qqonnx.encoding.encode import by_frequency
from qqonnx.encoding.packing import pack, storage_for
from qqonnx.evaluation.transfer import BROTLI_QUALITY, ZSTD_LEVEL
from qqonnx.model.load import load
from qqonnx.model.select import select

if TYPE_CHECKING:
    from collections.abc import Callable

Indices = np.ndarray[Any, np.dtype[np.uint8]]
MIN_SIZE = 1024


def ascending(indices: Indices, _: int) -> Indices:
    """Number levels in ascending order; keep the weights in C order."""
    return indices


def frequent_first(indices: Indices, levels: int) -> Indices:
    """Number levels by falling frequency, as qqonnx does."""
    return by_frequency(indices, np.arange(levels), None)[0]


def gray(indices: Indices, levels: int) -> Indices:
    """Number neighboring levels by Gray codes, if the number of levels is a power of two."""
    return np.asarray(indices ^ (indices >> 1)) if levels & (levels - 1) == 0 else indices


def channels_last(indices: Indices, _: int) -> Indices:
    """Store the first axis innermost."""
    return np.ascontiguousarray(np.moveaxis(indices, 0, -1))


ORDERS: dict[str, Callable[[Indices, int], Indices]] = {
    "ascending": ascending,
    "frequent first": frequent_first,
    "Gray": gray,
    "channels last": channels_last,
}

CODERS: dict[str, Callable[[bytes], int]] = {
    "brotli": lambda data: len(brotli.compress(data, quality=BROTLI_QUALITY)),
    "zstd": lambda data: len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)),
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
        f"| method | bits | entropy | {' | '.join(f'{n}: {o}' for n in CODERS for o in ORDERS)} |",
        "|---|---:|" + "---:|" * (1 + len(CODERS) * len(ORDERS)),
    ]
    for method in arguments.methods.split(","):
        for bits in map(int, arguments.bits.split(",")):
            levels = method_named(method).levels_for(bits)
            quantized = [_indices(weight.tensor.numpy(), method, levels) for weight in weights]
            entropy = _entropy(quantized, levels) / storage_for(levels).bits_per_weight
            data = [_packed(quantized, levels, order) for order in ORDERS.values()]
            shares = [100 * entropy]
            shares += [100 * size(part) / len(part) for size in CODERS.values() for part in data]
            cells = " | ".join(f"{share:.1f}" for share in shares)
            lines.append(f"| {method} | {bits} | {cells} |")
    lines += [
        "",
        f"Percent of the packed bytes of `{arguments.model.name}`; brotli level {BROTLI_QUALITY}, "
        f"zstd level {ZSTD_LEVEL}.",
    ]
    write_or_print(arguments.write, "transfer", "\n".join(lines))


def _packed(
    quantized: list[Indices], levels: int, order: Callable[[Indices, int], Indices]
) -> bytes:
    storage = storage_for(levels)
    parts = (order(indices, levels).reshape(-1) for indices in quantized)
    return b"".join(plane.tobytes() for part in parts for plane in pack(part, storage))


def _indices(values: Any, method: str, levels: int) -> Indices:
    flat = np.ascontiguousarray(values).reshape(-1)
    indices: Indices = assign(flat, fit(flat, method, levels)).reshape(values.shape)
    return indices


def _entropy(quantized: list[Indices], levels: int) -> float:
    total = sum(indices.size for indices in quantized)
    bits = (i.size * index_entropy(np.bincount(i.reshape(-1), minlength=levels)) for i in quantized)
    return sum(bits) / total


if __name__ == "__main__":
    main()

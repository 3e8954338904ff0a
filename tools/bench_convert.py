"""Compare the time of every codebook method with `np.sort`, on weights like ResNet-50's.

    python tools/bench_convert.py [--bits 4] [--repeats 5] [--json]

The weights have the shapes of torchvision's ResNet-50 (25.5 million in 54 arrays) and seeded,
heavy-tailed values. Each method fits, assigns and packs every array on one thread. Times are the
least of several interleaved repeats, summed over the arrays, and relative to sorting the same
arrays. k-means of other packages is compared on the smaller arrays only.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import tracemalloc
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from kmeans_peers import Array, Cluster, peers
from rich.console import Console
from rich.progress import track
from rich.table import Table

from qqonnx.codebooks import METHODS, assign, distortion, fit, method_named
from qqonnx.encoding.packing import pack, storage_for
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESNET50 = (
    ((64, 3, 7, 7), 1),
    ((64, 64, 1, 1), 1),
    ((64, 256, 1, 1), 2),
    ((64, 64, 3, 3), 3),
    ((256, 64, 1, 1), 4),
    ((128, 256, 1, 1), 1),
    ((128, 512, 1, 1), 3),
    ((128, 128, 3, 3), 4),
    ((512, 128, 1, 1), 4),
    ((512, 256, 1, 1), 1),
    ((256, 512, 1, 1), 1),
    ((256, 1024, 1, 1), 5),
    ((256, 256, 3, 3), 6),
    ((1024, 256, 1, 1), 6),
    ((1024, 512, 1, 1), 1),
    ((512, 1024, 1, 1), 1),
    ((512, 2048, 1, 1), 2),
    ((512, 512, 3, 3), 3),
    ((2048, 512, 1, 1), 3),
    ((2048, 1024, 1, 1), 1),
    ((1000, 2048), 1),
)
"""Shapes of the weights of torchvision's ResNet-50, and the number of arrays of each shape."""


@dataclass(frozen=True)
class Row:
    """One line of the result; times are relative to `np.sort` of the same arrays.

    Attributes:
        name: method or package.
        levels: largest number of levels.
        fit: relative time to fit the codebook.
        assign: relative time to assign the indices.
        pack: relative time to pack the indices.
        total: sum of the three.
        memory: peak memory for the largest array, that array included, as a multiple of it.
        error: squared error relative to qqonnx's k-means on the same arrays.
        weights: number of weights measured.
    """

    name: str
    levels: int
    fit: float
    assign: float | None
    pack: float | None
    total: float
    memory: float | None
    error: float
    weights: int


def arrays(largest: int | None = None) -> Iterator[Array]:
    """Yield seeded weights: Student t with 5 degrees of freedom, scaled to the fan-in."""
    shapes = [shape for shape, count in RESNET50 for _ in range(count)]
    for seed, shape in enumerate(shapes):
        size = int(np.prod(shape))
        if largest is None or size <= largest:
            scale = np.sqrt(2 / np.prod(shape[1:]))
            yield (np.random.default_rng(seed).standard_t(5, size) * scale).astype(np.float32)


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bench_methods(levels: dict[str, int], repeats: int) -> list[Row]:
    """Return a row for each method of `levels` (name -> number of levels)."""
    sort_time = 0.0
    times = {name: np.zeros(3) for name in levels}
    errors = dict.fromkeys(levels, 0.0)
    best_error = 0.0
    weights = 0
    everything = sum(count for _, count in RESNET50)
    for values in track(arrays(), "methods", everything, console=Console(stderr=True)):
        least_sort = np.inf
        least = {name: np.full(3, np.inf) for name in levels}
        for _ in range(repeats):
            least_sort = min(least_sort, seconds(partial(np.sort, values)))
            for name, count in levels.items():
                start = time.perf_counter()
                codebook = fit(values, name, count)
                fitted = time.perf_counter()
                indices = assign(values, codebook)
                assigned = time.perf_counter()
                pack(indices, storage_for(codebook.levels.size))
                packed = time.perf_counter()
                spans = np.diff([start, fitted, assigned, packed])
                least[name] = np.minimum(least[name], spans)
        sort_time += least_sort
        weights += values.size
        best_error += squared_error(values, "kmeans", levels["kmeans"])
        for name, count in levels.items():
            times[name] += least[name]
            errors[name] += squared_error(values, name, count)
    return [
        Row(
            name=name,
            levels=levels[name],
            fit=float(times[name][0]) / sort_time,
            assign=float(times[name][1]) / sort_time,
            pack=float(times[name][2]) / sort_time,
            total=float(times[name].sum()) / sort_time,
            memory=peak_memory(name, levels[name]),
            error=errors[name] / best_error,
            weights=weights,
        )
        for name in levels
    ]


def squared_error(values: Array, name: str, count: int) -> float:
    """Return the sum of squared errors of a method."""
    codebook = fit(values, name, count)
    return distortion(values, codebook.levels[assign(values, codebook)]).l2 * values.size


def peak_memory(name: str, count: int) -> float:
    """Return the peak memory for the largest array, as a multiple of it."""
    values = max(arrays(), key=lambda array: array.size)
    tracemalloc.start()
    codebook = fit(values, name, count)
    pack(assign(values, codebook), storage_for(codebook.levels.size))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return 1 + peak / values.nbytes


def bench_peers(found: dict[str, Cluster], count: int, largest: int, repeats: int) -> list[Row]:
    """Return a row for qqonnx's k-means and each other package, on arrays of at most `largest`."""

    def ours(values: Array, levels: int) -> tuple[Array, Array]:
        codebook = fit(values, "kmeans", levels)
        return codebook.levels, assign(values, codebook)

    contestants: dict[str, Cluster] = {"qqonnx kmeans": ours, **found}
    subset = list(arrays(largest))
    sort_time = 0.0
    times = dict.fromkeys(contestants, 0.0)
    errors = dict.fromkeys(contestants, 0.0)
    for values in track(subset, "packages", console=Console(stderr=True)):
        least_sort = np.inf
        least = dict.fromkeys(contestants, np.inf)
        for repeat in range(repeats):
            least_sort = min(least_sort, seconds(partial(np.sort, values)))
            for name, cluster in contestants.items():
                start = time.perf_counter()
                centers, indices = cluster(values, count)
                least[name] = min(least[name], time.perf_counter() - start)
                if repeat == 0:
                    errors[name] += distortion(values, centers[indices]).l2 * values.size
        sort_time += least_sort
        for name in contestants:
            times[name] += least[name]
    weights = sum(values.size for values in subset)
    return [
        Row(
            name,
            count,
            times[name] / sort_time,
            None,
            None,
            times[name] / sort_time,
            None,
            errors[name] / errors["qqonnx kmeans"],
            weights,
        )
        for name in contestants
    ]


def show(rows: list[Row], title: str) -> None:
    """Print `rows` as a table."""
    table = Table(title=title)
    table.add_column("method")
    for column in ("levels", "fit", "assign", "pack", "total", "peak memory", "squared error"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [row.fit, row.assign, row.pack, row.total, row.memory, row.error]
        table.add_row(
            row.name, str(row.levels), *("" if cell is None else f"{cell:.2f}" for cell in cells)
        )
    Console(width=100).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, default=4, help="bits per weight (4)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats; the least counts (5)")
    parser.add_argument(
        "--peer-size", type=int, default=70_000, help="largest array for other packages (70000)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    try:
        kmeans_levels = method_named("kmeans").levels_for(options.bits)
    except QqonnxError as error:
        parser.error(str(error))
    levels = {}
    for name, method in METHODS.items():
        with suppress(QqonnxError):  # the method does not exist at these bits
            levels[name] = method.levels_for(options.bits)
    rows = bench_methods(levels, options.repeats)
    found, missing = peers()
    peer_rows = bench_peers(found, kmeans_levels, options.peer_size, options.repeats)
    if options.json:
        print(
            json.dumps(
                {
                    "bits": options.bits,
                    "numpy": np.__version__,
                    "machine": platform.processor() or platform.machine(),
                    "methods": [asdict(row) for row in rows],
                    "packages": [asdict(row) for row in peer_rows],
                    "left_out": missing,
                },
                indent=2,
            )
        )
        return
    print("Times relative to np.sort of the same arrays, memory relative to the largest array,")
    print("errors relative to k-means at the same bits.")
    show(rows, f"{options.bits} bits, all {rows[0].weights / 1e6:.1f} M weights")
    subset = f"arrays of at most {options.peer_size:,}, {peer_rows[0].weights / 1e6:.2f} M in all"
    show(peer_rows, f"k-means of other packages: only {subset}")
    for name, reason in missing.items():
        print(f"{name} omitted: {reason}")


if __name__ == "__main__":
    main()

"""Passes over the weights with the second moments of their inputs, in bounded memory."""

from __future__ import annotations

from functools import partial
from shutil import disk_usage
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from qqonnx.calibration.moments import Moments, collect_moments
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from qqonnx.calibration.context import Context
    from qqonnx.calibration.layers import Layer
    from qqonnx.calibration.matrices import WeightMatrix

    Group = tuple[Sequence[WeightMatrix], dict[str, Moments]]
    MomentPasses = Callable[[], Iterator[Group]]

MAX_BYTES = 1 << 30
"""Limit on the bytes of the second moments in memory at once; one layer may exceed it."""

Result = TypeVar("Result")


def moment_passes(context: Context, weights: Sequence[WeightMatrix], folder: Path) -> MomentPasses:
    """Return a function that yields the weights in groups, with the moments of their inputs.

    The moments of one group are in memory at a time. If one group holds all layers, they stay
    there. Otherwise they are written to `folder` if they take at most half of the free space there;
    if not, each call runs the model on the inputs again, group by group. Weights without a layer
    come last and have no moments; without inputs, these are all.
    """
    by_name = {weight.name: weight for weight in weights}
    runs = bool(context.inputs.feeds)
    layers = [weight.layer for weight in weights if weight.layer is not None and runs]
    others = [weight for weight in weights if weight.layer is None or not runs]

    def collected(layers: Sequence[Layer]) -> Group:
        return [by_name[layer.name] for layer in layers], collect_moments(context, layers)

    groups = moment_groups(layers)
    opened: list[Callable[[], Group]] = [partial(collected, group) for group in groups]
    if len(groups) == 1:
        kept = collected(groups[0])
        opened = [lambda: kept]
    elif 2 * _nbytes(layers) < disk_usage(folder).free:
        opened = [
            _on_disk(collected(group), folder / f"{number}.npy")
            for number, group in enumerate(groups)
        ]

    def passes() -> Iterator[Group]:
        for open_group in opened:
            yield open_group()
        yield others, {}

    return passes


def _on_disk(group: Group, path: Path) -> Callable[[], Group]:
    """Write the moments of a group to files; return a function that maps them.

    What was read of a file is resident until the group is released.
    """
    weights, moments = group
    files: dict[int, Callable[[], Moments]] = {}
    for found in moments.values():
        if id(found) not in files:
            file = path.with_stem(f"{path.stem}-{len(files)}")
            np.save(file, found.halves)
            files[id(found)] = partial(_mapped, file, found.means, found.samples)
    keys = {name: id(found) for name, found in moments.items()}

    def opened() -> Group:
        mapped = {key: open_file() for key, open_file in files.items()}
        return weights, {name: mapped[key] for name, key in keys.items()}

    return opened


def _mapped(file: Path, means: NDArray[np.float32], samples: float) -> Moments:
    return Moments(np.load(file, mmap_mode="r"), means, samples)


def _nbytes(layers: Sequence[Layer]) -> int:
    """Return the bytes of the moments of layers; layers with the same patches share them."""
    distinct = {layer.patch_key: layer for layer in layers}
    return sum(_moment_bytes(layer) for layer in distinct.values())


def _moment_bytes(layer: Layer) -> int:
    return 2 * 4 * layer.groups * layer.columns**2


def moment_groups(layers: Sequence[Layer], max_bytes: int = MAX_BYTES) -> list[list[Layer]]:
    """Return the layers in order, in groups whose moments take at most `max_bytes`.

    Layers with the same patches share their moments. A layer whose moments alone take more than
    `max_bytes` is a group.
    """
    groups: list[list[Layer]] = []
    keys: set[object] = set()
    size = 0
    for layer in layers:
        new = _moment_bytes(layer) if layer.patch_key not in keys else 0
        if not groups or size + new > max_bytes:
            groups.append([])
            keys, size = set(), 0
            new = _moment_bytes(layer)
        groups[-1].append(layer)
        keys.add(layer.patch_key)
        size += new
    return groups


def map_with_moments(
    work: Callable[[WeightMatrix, Moments | None], Result],
    weights: Sequence[WeightMatrix],
    passes: MomentPasses,
    threads: int,
) -> Iterator[tuple[WeightMatrix, Result]]:
    """Yield each of `weights` with the result of `work`, group by group, in several threads."""
    names = {weight.name for weight in weights}
    for group, moments in passes():
        wanted = [weight for weight in group if weight.name in names]

        def call(weight: WeightMatrix, moments: dict[str, Moments] = moments) -> Result:
            # Weights of enormous size may overflow; the judgement sees what became of them.
            with np.errstate(over="ignore", invalid="ignore"):
                return work(weight, moments.get(weight.name))

        results = in_order(call, wanted, size=lambda weight: weight.work_size, threads=threads)
        yield from zip(wanted, results, strict=True)

"""Passes over the weights with the second moments of their inputs, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from qqonnx.calibration.moments import collect_moments
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qqonnx.calibration.context import Context
    from qqonnx.calibration.layers import Layer
    from qqonnx.calibration.matrices import WeightMatrix
    from qqonnx.calibration.moments import Moments

    Group = tuple[Sequence[WeightMatrix], dict[str, Moments]]
    MomentPasses = Callable[[], Iterator[Group]]

MAX_BYTES = 1 << 30
"""Limit on the bytes of the second moments in memory at once; one layer may exceed it."""

Result = TypeVar("Result")


def moment_passes(context: Context, weights: Sequence[WeightMatrix]) -> MomentPasses:
    """Return a function that yields the weights in groups, with the moments of their inputs.

    The moments of one group are in memory at a time. If one group holds all layers, its moments are
    collected once; otherwise, each call runs the model on the inputs again, group by group. Weights
    without a layer come last and have no moments; without inputs, these are all.
    """
    by_name = {weight.name: weight for weight in weights}
    runs = bool(context.inputs.feeds)
    layers = [weight.layer for weight in weights if weight.layer is not None and runs]
    others = [weight for weight in weights if weight.layer is None or not runs]

    def collected(layers: Sequence[Layer]) -> Group:
        return [by_name[layer.name] for layer in layers], collect_moments(context, layers)

    groups = moment_groups(layers)
    kept = [collected(group) for group in groups] if len(groups) == 1 else []

    def passes() -> Iterator[Group]:
        yield from kept or map(collected, groups)
        yield others, {}

    return passes


def moment_groups(layers: Sequence[Layer], max_bytes: int = MAX_BYTES) -> list[list[Layer]]:
    """Return the layers in order, in groups whose moments take at most `max_bytes`.

    Layers with the same patches share their moments. A layer whose moments alone take more than
    `max_bytes` is a group.
    """
    groups: list[list[Layer]] = []
    keys: set[object] = set()
    size = 0
    for layer in layers:
        new = 2 * 4 * layer.groups * layer.columns**2 if layer.patch_key not in keys else 0
        if not groups or size + new > max_bytes:
            groups.append([])
            keys, size = set(), 0
            new = 2 * 4 * layer.groups * layer.columns**2
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

"""Judgement of a calibrated file: is it better than the plain file of its size?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qqonnx.calibration.quantize import LEVEL_COUNTS
from qqonnx.compression.quality import measure_qualities
from qqonnx.config import PLAIN_METHOD
from qqonnx.encoding.encode import encode
from qqonnx.encoding.packing import storage_for
from qqonnx.encoding.stored import FLOAT16
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qqonnx.compression.quality import Feed, Quality
    from qqonnx.config import WeightPlan
    from qqonnx.encoding.stored import StoredWeight
    from qqonnx.evaluation.quality import OutputQuality

_TOLERANCE = 1.25
"""Ratio of divergences from which an output counts as worse; the samples are few."""

_NEGLIGIBLE = 1e-4
"""Divergence that no one notices."""


def plain_weights(
    plans: Sequence[WeightPlan], calibrated: Sequence[StoredWeight], threads: int
) -> list[StoredWeight]:
    """Return the weights by k-means with scales, with as many levels as the calibrated ones' bytes.

    All weights have equally many levels, but those whose levels the options fix. What calibration
    rounds to float16 stays so.

    Args:
        plans: the weights to compress.
        calibrated: the calibrated weights.
        threads: number of weights in work at once.
    """
    payload = sum(weight.payload_bytes for weight in calibrated if weight.method != FLOAT16)
    levels = LEVEL_COUNTS[0]
    for count in LEVEL_COUNTS:
        if sum(_payload(plan, count) for plan in plans) <= payload:
            levels = count
    scaled = [_scaled(plan, plan.levels if plan.fixed else levels) for plan in plans]
    encoded = in_order(encode, scaled, size=lambda plan: plan.weight.tensor.size, threads=threads)
    return [*encoded, *(weight for weight in calibrated if weight.method == FLOAT16)]


def lost_output(
    original: Path,
    calibrated: Path,
    plain: Path,
    feeds: Sequence[Feed],
    *,
    optimized: bool,
) -> str | None:
    """Return the output that the calibrated file lost most of, relative to the plain one.

    None if it lost of no output more than the plain file, or if they cannot be compared.

    Args:
        original: the original model.
        calibrated: the calibrated file.
        plain: the plain file.
        feeds: inputs of some runs that nothing was fitted to.
        optimized: whether ONNX Runtime may optimize the models.
    """
    qualities = measure_qualities(
        original, [calibrated, plain], feeds, "held-out inputs", optimized=optimized
    )
    if any(quality.reason is not None for quality in qualities):
        return None
    ours, theirs = map(_divergences, qualities)
    worse = {name: ours[name] / max(theirs[name], 1e-12) for name in ours if name in theirs}
    lost = [
        name for name, ratio in worse.items() if ratio > _TOLERANCE and ours[name] > _NEGLIGIBLE
    ]
    if not lost:
        return None
    return max(lost, key=lambda name: worse[name])


def _divergences(quality: Quality) -> dict[str, float]:
    return {output.name: _divergence(output) for output in quality.outputs}


def _divergence(output: OutputQuality) -> float:
    """Return the divergence of an output as calibration counts it."""
    return output.kl if output.kl is not None else output.relative_error**2 / 2


def _scaled(plan: WeightPlan, levels: int) -> WeightPlan:
    can_scale = plan.weight.channel_axis is not None and len(plan.weight.shape) > 1
    granularity = "scale" if can_scale else "tensor"
    return replace(plan, method=PLAIN_METHOD, levels=levels, granularity=granularity)


def _payload(plan: WeightPlan, levels: int) -> int:
    """Return the bytes of indices, codebook and scales."""
    weight = plan.weight
    storage = storage_for(plan.levels if plan.fixed else levels)
    axis = weight.channel_axis
    scales = weight.tensor.dtype.itemsize * weight.shape[axis] if axis is not None else 0
    codebook = storage.levels * weight.tensor.dtype.itemsize
    return int(storage.packed_bytes(weight.tensor.size) + codebook + scales)

"""Judgement of a calibrated file: is it better than the plain file of its size?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qqonnx.compression.quality import measure_qualities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from qqonnx.compression.quality import Feed, Quality
    from qqonnx.evaluation.quality import OutputQuality

_TOLERANCE = 1.25
"""Ratio of divergences from which an output counts as worse; the samples are few."""

_NEGLIGIBLE = 1e-4
"""Divergence that no one notices."""


def lost_output(
    original: Path,
    calibrated: Path,
    plain: Path,
    feeds: Sequence[Feed],
    importance: Mapping[str, float],
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
        importance: factors of the outputs; those of 0 are left out.
        optimized: whether ONNX Runtime may optimize the models.
    """
    qualities = measure_qualities(
        original, [calibrated, plain], feeds, "held-out inputs", optimized=optimized
    )
    if qualities[1].reason is not None:
        return None
    if qualities[0].reason is not None:
        return qualities[1].outputs[0].name
    ours, theirs = map(_divergences, qualities)
    counting = [name for name in ours if name in theirs and importance.get(name, 1) > 0]
    worse = {name: ours[name] / max(theirs[name], 1e-12) for name in counting}
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

"""Judgement of a calibrated file: is it better than the plain file of its size?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qqonnx.compression.quality import Quality
    from qqonnx.evaluation.quality import OutputQuality

_TOLERANCE = 1.25
"""Ratio of divergences from which an output counts as worse; the samples are few."""

_NEGLIGIBLE = 1e-4
"""Divergence that no one notices."""


def lost_output(ours: Quality, theirs: Quality, importance: Mapping[str, float]) -> str | None:
    """Return the output that the calibrated file lost most of, relative to the plain one.

    None if it lost of no output more than the plain file, or if they cannot be compared.

    Args:
        ours: quality of the calibrated file.
        theirs: quality of the plain file, on the same inputs, which nothing was fitted to.
        importance: factors of the outputs; those of 0 are left out.
    """
    if theirs.reason is not None:
        return None
    if ours.reason is not None:
        return theirs.outputs[0].name
    before, after = _divergences(theirs), _divergences(ours)
    counting = [name for name in before if importance.get(name, 1) > 0]
    for name in counting:
        if name not in after:
            return name
    worse = {name: after[name] / max(before[name], 1e-12) for name in counting}
    lost = [
        name for name, ratio in worse.items() if ratio > _TOLERANCE and after[name] > _NEGLIGIBLE
    ]
    if not lost:
        return None
    return max(lost, key=lambda name: worse[name])


def _divergences(quality: Quality) -> dict[str, float]:
    return {output.name: _divergence(output) for output in quality.outputs}


def _divergence(output: OutputQuality) -> float:
    """Return the divergence of an output as calibration counts it."""
    return output.kl if output.kl is not None else output.relative_error**2 / 2

"""What to pick of a subject's runs, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qqonnx.report.wording import QUALITIES, label, megabytes, percent
from qqonnx.sweep.baselines import FLOAT32

if TYPE_CHECKING:
    from qqonnx.report.outcomes import Outcome
    from qqonnx.report.subjects import Subject

ADVISED_LOSS = 0.01
"""The loss that the sentence is about, as a share of all images: one point."""


def advice(subject: Subject) -> str:
    """Tell in a sentence or three which file to take."""
    others = [outcome for outcome in subject.outcomes if outcome.method != FLOAT32]
    if not others:
        return "nothing but the float model was run."
    reference = subject.reference
    best = max(others, key=lambda o: (subject.of(o), -o.numbers["file_bytes"], -o.number))
    if reference is None:
        return (
            f"without a run of float32, losses are not known. The best of {len(others)} runs is "
            f"{_told(subject, best)}."
        )
    pick = subject.smallest(ADVISED_LOSS)
    if pick is None:
        lost = 100 * (reference - subject.of(best))
        return (
            f"no run stays within 1 point of float ({_float(subject, reference)}). The closest "
            f"is {_told(subject, best)}, which loses {lost:.1f} points."
        )
    words = (
        f"the smallest file within 1 point of float ({_float(subject, reference)}) is "
        f"{_told(subject, pick)}."
    )
    baselines = [outcome for outcome in others if outcome.is_baseline]
    if pick.is_baseline:
        words += " It is a baseline: no file of qqonnx is as good and as small."
    elif baselines:
        rival = subject.smallest(ADVISED_LOSS, baseline=True)
        words += (
            " No baseline is as good."
            if rival is None
            else f" The smallest baseline as good, {label(rival)}, takes "
            f"{megabytes(rival.numbers['file_bytes'])}."
        )
    return words


def certainty(subject: Subject) -> str:
    """Tell how far the number of images lets differences be trusted; nothing if not known."""
    share = subject.reference if subject.quality == "top1" else None
    if not subject.samples or share is None:
        return ""
    # Agresti and Coull's: two more right and two more wrong, so that it is not 0 at 100 %.
    images = subject.samples + 4
    adjusted = (share * subject.samples + 2) / images
    points = 100 * math.sqrt(adjusted * (1 - adjusted) / images)
    return (
        f"Judged by {subject.samples:,} images: the standard error of {percent(share)} is "
        f"about {points:.1f} points, and differences of that order may be chance."
    )


def times_smaller(subject: Subject, outcome: Outcome) -> float | None:
    """Return the float model's size over a run's; None if it was not run."""
    if subject.float32 is None:
        return None
    return subject.float32.numbers["file_bytes"] / outcome.numbers["file_bytes"]


def _float(subject: Subject, reference: float) -> str:
    if subject.float32 is None:
        return f"{percent(reference)} {QUALITIES[subject.quality]}"
    size = megabytes(subject.float32.numbers["file_bytes"])
    if subject.quality == "agreement":
        return f"{size}, judged by agreement with its answers"
    return f"{percent(reference)} {QUALITIES[subject.quality]}, {size}"


def _told(subject: Subject, outcome: Outcome) -> str:
    words = f"{label(outcome)}: {megabytes(outcome.numbers['file_bytes'])}"
    times = times_smaller(subject, outcome)
    if times is not None and times > 1:
        words += f", {times:.1f} times smaller"
    return f"{words}, {percent(subject.of(outcome))}"

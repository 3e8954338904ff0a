"""What can be compared: runs of one model judged by the same images, and what to pick of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.report.wording import shortened
from qqonnx.sweep.baselines import FLOAT32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qqonnx.report.outcomes import Outcome

LOSSES = (0.0, 0.01, 0.02, 0.05)
"""What may be lost of a float model's accuracy, as a share of all images."""

_EPSILON = 1e-9  # shares of images are sums of 1 / images, rounded


@dataclass(frozen=True)
class Subject:
    """A model and the images it is judged by.

    Attributes:
        name: the model's name, with what tells it from others of the name.
        quality: the column runs are judged by: "top1" or, without labels, "agreement".
        samples: images.
        outcomes: runs that are done and have a size and a quality, in the file's order.
    """

    name: str
    quality: str
    samples: int
    outcomes: tuple[Outcome, ...]

    def of(self, outcome: Outcome) -> float:
        """Return a run's quality, a share."""
        return outcome.numbers[self.quality]

    @property
    def float32(self) -> Outcome | None:
        """The float model's run."""
        return next((o for o in self.outcomes if o.method == FLOAT32), None)

    @property
    def reference(self) -> float | None:
        """The float model's quality; with itself it always agrees. None if it is not known."""
        if self.quality == "agreement":
            return 1.0
        return None if self.float32 is None else self.of(self.float32)

    @property
    def frontier(self) -> tuple[Outcome, ...]:
        """Runs that no other beats in size without being worse, from the smallest file on."""
        best, found = -1.0, []
        for outcome in sorted(self.outcomes, key=self._by_size):
            if self.of(outcome) > best:
                best = self.of(outcome)
                found.append(outcome)
        return tuple(found)

    def smallest(self, loss: float, *, baseline: bool = False) -> Outcome | None:
        """Return the smallest file that loses at most `loss` of the float model's quality.

        Args:
            loss: a share of all images.
            baseline: among what is not qqonnx's, instead of among all.

        Returns:
            The run; None if there is none but the float model, or that one's quality is not known.
        """
        if self.reference is None:
            return None
        least = self.reference - loss - _EPSILON
        found = [
            outcome
            for outcome in self.outcomes
            if outcome.method != FLOAT32
            and self.of(outcome) >= least
            and (outcome.is_baseline or not baseline)
        ]
        return min(found, key=self._by_size, default=None)

    def _by_size(self, outcome: Outcome) -> tuple[float, float, int]:
        return outcome.numbers["file_bytes"], -self.of(outcome), outcome.number


def subjects_of(outcomes: Iterable[Outcome]) -> list[Subject]:
    """Group runs by model and by the images they were judged by, in the file's order.

    Runs of one model on other images, or on fewer, are not comparable. Where nothing is labelled
    agreement with the float model stands in for accuracy.
    """
    groups: dict[tuple[str, str, str, int], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.status == "done" and outcome.numbers.get("file_bytes"):
            key = (
                outcome.text.get("model", ""),
                outcome.text.get("model_sha256", ""),
                outcome.text.get("dataset", ""),
                int(outcome.numbers.get("samples", 0)),
            )
            groups.setdefault(key, []).append(outcome)
    subjects = []
    for key, members in groups.items():
        labelled = any("top1" in outcome.numbers for outcome in members)
        quality = "top1" if labelled else "agreement"
        judged = tuple(outcome for outcome in members if quality in outcome.numbers)
        if judged:
            subjects.append(Subject(_name(key, list(groups)), quality, key[3], judged))
    return subjects


def _name(key: tuple[str, str, str, int], keys: Sequence[tuple[str, str, str, int]]) -> str:
    """Name a group by its model and, as far as others need it, by what else it is."""
    model, digest, dataset, samples = key
    name = shortened(model)
    if len({other[1] for other in keys if other[0] == model}) > 1:
        name += f" ({digest[:8]})"
    if len({other[2] for other in keys}) > 1:
        name += f" on {shortened(dataset)}"
    if Counter(other[:3] for other in keys)[key[:3]] > 1:
        name += f", {samples} images"
    return name

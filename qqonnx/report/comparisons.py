"""Comparable runs: one model, scored on the same images. The frontier and the smallest files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.report.formatting import shortened
from qqonnx.report.scores import scores_of
from qqonnx.sweep.baselines import FLOAT32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qqonnx.report.outcomes import Outcome
    from qqonnx.report.scores import Score

RUN_TIMES = (1.05, 0.75, 0.5)
"""Accepted run times, as multiples of the float model's; 1.05 is the same within the noise."""

LOSSES = (0.0, 0.01, 0.02, 0.05)
"""Accepted losses against the float model's score; see `Score.lost`."""

_EPSILON = 1e-9  # shares of samples are rounded sums of 1 / samples


@dataclass(frozen=True)
class Comparison:
    """The runs of one model that were scored on the same images.

    Attributes:
        name: the model's name, extended where several comparisons would share it.
        kind: what scores the runs.
        samples: the number of samples.
        outcomes: the completed runs that have a file size and a score, in the file's order.
    """

    name: str
    kind: Score
    samples: int
    outcomes: tuple[Outcome, ...]

    def score(self, outcome: Outcome) -> float:
        """Return the score of a run."""
        return outcome.numbers[self.kind.name]

    def text(self, outcome: Outcome) -> str:
        """Return the score of a run as text."""
        return self.kind.text(self.score(outcome))

    @property
    def float32(self) -> Outcome | None:
        """The float model's run; None if there is none."""
        return next((o for o in self.outcomes if o.method == FLOAT32), None)

    @property
    def reference(self) -> float | None:
        """The float model's score, which is 1 for agreement; None if it is unknown."""
        if self.kind.best is not None:
            return self.kind.best
        return None if self.float32 is None else self.score(self.float32)

    @property
    def frontier(self) -> tuple[Outcome, ...]:
        """The Pareto frontier of size and score, from the smallest file to the largest."""
        frontier: list[Outcome] = []
        for outcome in sorted(self.outcomes, key=self._by_size):
            if not frontier or self.worth(outcome) > self.worth(frontier[-1]):
                frontier.append(outcome)
        return tuple(frontier)

    @property
    def timed(self) -> tuple[Outcome, ...]:
        """The runs whose run time was measured."""
        return tuple(outcome for outcome in self.outcomes if outcome.run_time is not None)

    def smallest(
        self, loss: float, *, baseline: bool = False, run_time: float | None = None
    ) -> Outcome | None:
        """Return the run with the smallest file that loses at most `loss`.

        Args:
            loss: the accepted loss against the float model's score; see `Score.lost`.
            baseline: whether to consider only baselines.
            run_time: longest run time, as a multiple of the float model's; None for any.

        Returns:
            The run; None if only the float model qualifies or its score is unknown.
        """
        candidates = (
            outcome
            for outcome in self._within(loss)
            if (outcome.is_baseline or not baseline)
            and (run_time is None or (outcome.run_time or float("inf")) <= run_time)
        )
        return min(candidates, key=self._by_size, default=None)

    def fastest(self, loss: float) -> Outcome | None:
        """Return the run with the shortest run time that loses at most `loss`, like `smallest`."""
        timed = [(o.run_time, *self._by_size(o), o) for o in self._within(loss) if o.run_time]
        return min(timed)[-1] if timed else None

    def _within(self, loss: float) -> list[Outcome]:
        """Return the runs that lose at most `loss`, without the float model's."""
        if self.reference is None:
            return []
        reference = self.reference
        return [
            outcome
            for outcome in self.outcomes
            if outcome.method != FLOAT32
            and self.kind.lost(reference, self.score(outcome)) <= loss + _EPSILON
        ]

    def worth(self, outcome: Outcome) -> float:
        """Return a number that is larger for better scores."""
        return self.kind.worth(self.score(outcome))

    def _by_size(self, outcome: Outcome) -> tuple[float, float, int]:
        return outcome.nbytes, -self.worth(outcome), outcome.number


def comparisons_of(outcomes: Iterable[Outcome]) -> list[Comparison]:
    """Group the completed runs by model, data set, number of samples and score.

    They come in the file's order. The scores are those of `scores_of`.
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
    comparisons = []
    for key, members in groups.items():
        kinds = scores_of(members)
        for kind in kinds:
            scored = tuple(outcome for outcome in members if kind.name in outcome.numbers)
            name = _name(key, list(groups))
            if len(kinds) > 1:
                name += f", {kind.title}"
            comparisons.append(Comparison(name, kind, key[3], scored))
    return comparisons


def _name(key: tuple[str, str, str, int], keys: Sequence[tuple[str, str, str, int]]) -> str:
    """Return the model's name, extended by what distinguishes it from the other groups."""
    model, digest, dataset, samples = key
    name = shortened(model)
    if len({other[1] for other in keys if other[0] == model}) > 1:
        name += f" ({digest[:8]})"
    if len({other[2] for other in keys}) > 1:
        name += f" on {shortened(dataset)}"
    if Counter(other[:3] for other in keys)[key[:3]] > 1:
        name += f", {samples} samples"
    return name

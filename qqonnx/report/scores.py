"""The scores by which runs are compared: accuracy, agreement, cosine, or a metric of the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.report.formatting import percent, points, shortened
from qqonnx.report.outcomes import METRIC

if TYPE_CHECKING:
    from qqonnx.report.outcomes import Outcome


@dataclass(frozen=True)
class Score:
    """A number of each run by which files are picked.

    Attributes:
        name: name of the number of an outcome.
        title: what charts and tables call it.
        is_share: whether it is a share of answers; losses are then differences of shares, and
            otherwise shares of the float model's value.
        higher_is_better: whether a larger value is a better one.
        best: the float model's value, if it follows from the definition.
    """

    name: str
    title: str
    is_share: bool
    higher_is_better: bool = True
    best: float | None = None

    @property
    def unit(self) -> float:
        """The factor from the value to what axes show."""
        return 100.0 if self.is_share else 1.0

    @property
    def is_own(self) -> bool:
        """Whether it is a metric of the user."""
        return self.name.startswith(METRIC)

    def worth(self, value: float) -> float:
        """Return a number that is larger for better values."""
        return value if self.higher_is_better else -value

    def lost(self, reference: float, value: float) -> float:
        """Return the loss against the float model's value."""
        difference = self.worth(reference) - self.worth(value)
        if self.is_share:
            return difference
        return difference / (abs(reference) or 1.0)

    def after(self, reference: float, loss: float) -> float:
        """Return the value that loses `loss` against the float model's value."""
        step = loss if self.is_share else loss * (abs(reference) or 1.0)
        return reference - step if self.higher_is_better else reference + step

    def text(self, value: float) -> str:
        """Return a value as text."""
        return percent(value) if self.is_share else f"{value:.4g}"

    def loss_text(self, loss: float) -> str:
        """Return an accepted loss as text: points, or percent of the float model's value."""
        return points(loss) if self.is_share else f"{100 * loss:g} %"


TOP1 = Score("top1", "top-1 accuracy", is_share=True)
AGREEMENT = Score("agreement", "agreement with the float model", is_share=True, best=1.0)
COSINE = Score("cosine", "cosine to the float model's output", is_share=False, best=1.0)


def scores_of(outcomes: list[Outcome]) -> list[Score]:
    """Return the scores of some runs: the user's metrics, or else the first that they have.

    Accuracy comes before agreement, and agreement before the cosine.
    """
    own = {
        name: outcome.lower_is_better
        for outcome in outcomes
        for name in outcome.numbers
        if name.startswith(METRIC)
    }
    if own:
        return [
            Score(
                name,
                shortened(name.removeprefix(METRIC), 30),
                is_share=False,
                higher_is_better=name not in lower,
            )
            for name, lower in own.items()
        ]
    for score in (TOP1, AGREEMENT, COSINE):
        if any(score.name in outcome.numbers for outcome in outcomes):
            return [score]
    return []

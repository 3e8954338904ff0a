"""Which error measure predicts accuracy? Rank correlations over quantized weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from qqonnx.study.results import Row

PREDICTORS = {
    "l1": "L1 error",
    "l2": "L2 error",
    "sqnr": "SQNR",
    "entropy": "index entropy",
    "weighted": "activation-weighted error",
    "kl": "output KL",
}
"""Candidate predictors and what figures call them."""

_MORE_IS_BETTER = ("sqnr", "entropy")


@dataclass(frozen=True)
class Correlation:
    """How well a predictor ranks what remains of accuracy; 1 is perfectly, 0 not at all.

    Attributes:
        predictor: a key of `PREDICTORS`.
        pooled: over all weights, methods and bit-widths of a network, mean over networks.
        within_weight: over methods and bit-widths of one weight, mean over weights.
        within_choice: over methods, at one weight and bit-width, mean over both: does a smaller
            error tell the better method? Only where the accuracies differ.
        choices: number of (weight, bit-width) pairs in `within_choice`.
    """

    predictor: str
    pooled: float
    within_weight: float
    within_choice: float
    choices: int


def correlations(rows: Sequence[Row], target: str = "top1") -> list[Correlation]:
    """Return the rank correlation of each predictor with accuracy, the best choice last.

    Signs are such that 1 means: the better the predictor's value, the higher the accuracy.

    Args:
        rows: of `LayerJob`, with model and weight.
        target: "top1" or "agreement".
    """
    found = []
    for predictor in PREDICTORS:
        sign = 1 if predictor in _MORE_IS_BETTER else -1
        groupings: tuple[Callable[[Row], Hashable], ...] = (
            lambda row: row["model"],
            lambda row: (row["model"], row["weight"]),
            lambda row: (row["model"], row["weight"], row["bits"]),
        )
        values = [_by_group(rows, group, predictor, target) for group in groupings]
        means = [sign * float(np.mean(v)) if v else float("nan") for v in values]
        found.append(Correlation(predictor, means[0], means[1], means[2], len(values[2])))
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, ties sharing their mean rank; None if one is constant."""
    if len(first) < 2 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(import_extra("scipy.stats", "study").spearmanr(first, second).statistic)


def _by_group(
    rows: Sequence[Row], group: Callable[[Row], Hashable], predictor: str, target: str
) -> list[float]:
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    pairs = (
        spearman([row[predictor] for row in members], [row[target] for row in members])
        for members in groups.values()
    )
    return [value for value in pairs if value is not None]

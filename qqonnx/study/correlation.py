"""Which error measure predicts accuracy? Rank correlations over quantized weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.extras import import_extra
from qqonnx.study.results import grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qqonnx.study.results import Row

PREDICTORS = {
    "l1": "L1 error",
    "l2": "L2 error",
    "sqnr": "SQNR",
    "entropy": "index entropy",
    "weighted": "activation-weighted error",
    "kl": "output KL",
}
"""Candidate predictors of accuracy and their labels."""

_MORE_IS_BETTER = ("sqnr", "entropy")


@dataclass(frozen=True)
class Correlation:
    """The rank correlation of a predictor with accuracy: 1 is perfect, 0 is none.

    Attributes:
        predictor: a key of `PREDICTORS`.
        pooled: over all weights, methods and bit-widths of a network; mean over networks.
        within_weight: over methods and bit-widths of one weight; mean over weights.
        within_choice: over methods at one weight and bit-width, which answers whether a smaller
            error means the better method; mean over the cases in which accuracies differ.
        choices: the number of these cases.
    """

    predictor: str
    pooled: float
    within_weight: float
    within_choice: float
    choices: int


def correlations(rows: Sequence[Row], target: str = "top1") -> list[Correlation]:
    """Return the rank correlation of each predictor with accuracy, in the order of `PREDICTORS`.

    Signs are normalized: 1 means that a better value always comes with a higher accuracy.

    Args:
        rows: rows of `measure_layer`.
        target: "top1" or "agreement".
    """
    levels = (("model",), ("model", "weight"), ("model", "weight", "bits"))
    groups = [list(grouped(rows, *columns).values()) for columns in levels]
    entries = []
    for predictor in PREDICTORS:
        sign = 1 if predictor in _MORE_IS_BETTER else -1
        values = [_correlations(members, predictor, target) for members in groups]
        means = [sign * float(np.mean(v)) if v else float("nan") for v in values]
        entries.append(Correlation(predictor, means[0], means[1], means[2], len(values[2])))
    return entries


def _correlations(groups: Sequence[Sequence[Row]], predictor: str, target: str) -> list[float]:
    """Return the correlation within each group, without groups in which a side is constant."""
    values = (
        spearman([row[predictor] for row in rows], [row[target] for row in rows]) for rows in groups
    )
    return [value for value in values if value is not None]


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation with mean ranks for ties; None if a side is constant."""
    if len(first) < 2 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(import_extra("scipy.stats", "study").spearmanr(first, second).statistic)

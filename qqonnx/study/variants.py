"""Variants of QQ: how far each closes the gap to k-means, and where the gap comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.study.claims import mean_accuracies
from qqonnx.study.results import grouped
from qqonnx.study.schemes import KMEANS, QQ, SCALED, VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qqonnx.study.results import Results, Row


@dataclass(frozen=True)
class VariantResult:
    """The gain of one variant of QQ.

    Attributes:
        scheme: the scheme's key.
        error_gap: the closed share of the gap in squared error between QQ and k-means, mean over
            distributions and bits from 2; None for a scheme that needs channels.
        network_gap: the same for the weights of the networks; None if not measured.
        accuracy: mean top-1 over all networks at 2 to 5 bits; None if not measured.
    """

    scheme: str
    error_gap: float | None
    network_gap: float | None
    accuracy: float | None


def variant_results(results: Results) -> list[VariantResult]:
    """Return QQ, its variants, and k-means; QQ's gaps are 0 and k-means' gaps 1 by definition."""
    keys = [QQ.key, *(scheme.key for scheme in VARIANTS), KMEANS.key]
    accuracies = mean_accuracies(results, keys)
    distributions, networks = results.distribution_cells(), results.network_cells()
    return [
        VariantResult(
            key,
            None if key == SCALED.key else _mean_gap(distributions, key, "l2"),
            _mean_gap(networks, key, "noise"),
            accuracies.get(key),
        )
        for key in keys
    ]


def gap_closed(plain: float, variant: float, best: float) -> float:
    """Return the share of the gap from `plain` to `best` that `variant` closes; negative if worse.

    The gap is in decibels. On a linear scale, errors of 2 and of 20 times the best would look
    alike beside a QQ that is 100 times worse.
    """
    return float(np.log(plain / variant) / np.log(plain / best))


def _mean_gap(
    cells: Mapping[tuple[str, int], Mapping[str, Row]], key: str, measure: str
) -> float | None:
    schemes = (QQ.key, key, KMEANS.key)
    gaps = [
        gap_closed(*(rows[scheme][measure] for scheme in schemes))
        for (_, bits), rows in cells.items()
        if bits >= 2 and set(schemes) <= set(rows)
    ]
    return float(np.mean(gaps)) if gaps else None


def tails_by_bits(results: Results, method: str) -> dict[int, Row]:
    """Return the mean over networks of the rows of `measure_tails`, by bits."""
    rows = grouped((row for row in results.tails if row["method"] == method), "bits")
    return {
        bits: {
            name: float(np.mean([row[name] for row in members]))
            for name, value in members[0].items()
            if isinstance(value, float)
        }
        for (bits,), members in sorted(rows.items())
    }


def chosen_exponents(results: Results) -> list[Row]:
    """Return the chosen exponents α of each network and bit-width.

    Rows hold model and bits. Their entries `by_error`, `by_calibration` and `plain` hold alpha,
    top1 and kl on held-out images for the α of least squared error, for the α of least KL on
    calibration images, and for α = 1.
    """
    chosen = []
    for (model, bits), rows in grouped(results.exponents, "model", "bits").items():
        best = {
            "by_error": min(rows, key=lambda row: row["noise"]),
            "by_calibration": min(rows, key=lambda row: row["calibration_kl"]),
            "plain": max(rows, key=lambda row: row["alpha"]),
        }
        entries = {
            name: {key: row[key] for key in ("alpha", "top1", "kl")} for name, row in best.items()
        }
        chosen.append({"model": model, "bits": bits, **entries})
    return chosen

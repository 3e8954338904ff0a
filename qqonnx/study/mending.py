"""The open question: which mending of QQ closes its gap to k-means, and why there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.study.claims import mean_accuracies
from qqonnx.study.distributions import DISTRIBUTIONS
from qqonnx.study.schemes import KMEANS, MENDED, QQ, SCALED

if TYPE_CHECKING:
    from qqonnx.study.results import Results, Row


@dataclass(frozen=True)
class Mending:
    """What one mending of QQ achieves.

    Attributes:
        scheme: its key.
        error_gap: share of the gap in squared error between QQ and k-means that it closes, mean
            over distributions and bit-widths from 2 on; None where it needs channels.
        network_gap: the same for the noise of the networks' weights.
        accuracy: mean top-1 over networks at 2 to 5 bits, None if not measured.
    """

    scheme: str
    error_gap: float | None
    network_gap: float | None
    accuracy: float | None


def mendings(results: Results) -> list[Mending]:
    """Return every mending, and QQ and k-means, whose gaps are 0 and 1 by definition."""
    keys = [QQ.key, *(scheme.key for scheme in MENDED), KMEANS.key]
    accuracies = mean_accuracies(results, keys)
    return [
        Mending(
            key,
            None if key == SCALED.key else _distribution_gap(results, key),
            _network_gap(results, key),
            accuracies.get(key),
        )
        for key in keys
    ]


def gap_closed(plain: float, mended: float, best: float) -> float:
    """Return the share of the gap from `plain` to `best` that `mended` closes; negative if worse.

    In decibels: on a linear scale, factors of 2 and of 20 from the best would look alike
    beside a QQ that is 100 times worse.
    """
    return float(np.log(plain / mended) / np.log(plain / best))


def _distribution_gap(results: Results, key: str) -> float:
    gaps = []
    for distribution in DISTRIBUTIONS:
        plain, mended, best = (
            results.losses(distribution.key, scheme, "l2") for scheme in (QQ.key, key, KMEANS.key)
        )
        gaps += [gap_closed(plain[b], mended[b], best[b]) for b in plain if b >= 2]
    return float(np.mean(gaps))


def _network_gap(results: Results, key: str) -> float | None:
    gaps = [
        gap_closed(rows[QQ.key]["noise"], rows[key]["noise"], rows[KMEANS.key]["noise"])
        for _, bits, rows in results.cells()
        if bits >= 2 and {QQ.key, key, KMEANS.key} <= set(rows)
    ]
    return float(np.mean(gaps)) if gaps else None


def tails_by_bits(results: Results, method: str) -> dict[int, Row]:
    """Return the mean row of `TailsJob` over networks by bit-width."""
    found: dict[int, list[Row]] = {}
    for row in results.tails:
        if row["method"] == method:
            found.setdefault(row["bits"], []).append(row)
    return {
        bits: {
            name: float(np.mean([row[name] for row in rows]))
            for name in rows[0]
            if isinstance(rows[0][name], float)
        }
        for bits, rows in sorted(found.items())
    }


def chosen_exponents(results: Results) -> list[Row]:
    """Return for each network and bit-width the α of least noise and of least calibration KL.

    Rows hold model, bits, and for `by_error`, `by_calibration` and `plain` (α = 1) the α (not
    for plain), top1 and kl on held-out images.
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in results.exponents:
        groups.setdefault((row["model"], row["bits"]), []).append(row)
    chosen = []
    for (model, bits), rows in groups.items():
        entry: Row = {"model": model, "bits": bits}
        for name, best in (
            ("by_error", min(rows, key=lambda row: row["noise"])),
            ("by_calibration", min(rows, key=lambda row: row["calibration_kl"])),
            ("plain", max(rows, key=lambda row: row["alpha"])),
        ):
            entry[name] = {key: best[key] for key in ("alpha", "top1", "kl")}
        chosen.append(entry)
    return chosen

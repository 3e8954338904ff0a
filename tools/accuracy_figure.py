"""The picture of tools/bench_accuracy.py: agreement with the float model against file size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Point:
    """A file: its label in the table, its size in bytes and its agreement in percent."""

    label: str
    nbytes: int
    agreement: float


@dataclass(frozen=True)
class _Series:
    title: str
    color: str
    marker: str


_SERIES = {
    "k-means, one codebook per tensor": _Series("k-means, one codebook per tensor", "#999999", "s"),
    "k-means, scale per channel": _Series("k-means, scale per channel", "#56B4E9", "^"),
    "auto": _Series("--bits, calibrated", "#E69F00", "v"),
    "data-free": _Series("target or --bits, data-free", "#009E73", "D"),
    "target": _Series("target, calibrated", "#0072B2", "o"),
    "fine-tuning": _Series("target, calibrated, fine-tuning", "#D55E00", "P"),
}
"""Series by a word of their labels; see `_series_of`."""


def draw(float_bytes: int, points: list[Point], name: str, path: Path) -> None:
    """Draw the points of each series, in the order of their sizes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "qqonnx"
    figure, axes = plt.subplots(figsize=(8, 5), dpi=120, layout="constrained")
    for key, series in _SERIES.items():
        chosen = [point for point in points if _series_of(point.label) == key]
        chosen.sort(key=lambda point: point.nbytes)
        if chosen:
            axes.plot(
                [point.nbytes / 1e6 for point in chosen],
                [point.agreement for point in chosen],
                marker=series.marker,
                color=series.color,
                label=series.title,
            )
    axes.set(
        xlabel="file size in MB",
        ylabel="agreement with the float model, % of images",
        title=f"{name} ({float_bytes / 1e6:.1f} MB as floats)",
        ylim=(_floor([point.agreement for point in points]), None),
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, metadata=metadata)


def _series_of(label: str) -> str | None:
    """Return the key of a label's series: a word at its end, otherwise its first words."""
    for key in ("fine-tuning", "data-free"):
        if key in label.split(", "):
            return key
    return next((key for key in _SERIES if label.startswith(key)), None)


def _floor(shares: list[float]) -> float:
    """Return the start of an axis of percentages: zero unless all values are high."""
    least = min(shares)
    return 0.0 if least < 80 else 5 * (least // 5) - 1

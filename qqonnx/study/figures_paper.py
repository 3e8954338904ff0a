"""Figures 1 to 6 of the paper with the study's numbers."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import assign, fit
from qqonnx.study.distributions import DISTRIBUTIONS, draw
from qqonnx.study.drawing import GRAY, Curve, bits_axis, draw_curves, panels, scheme_curve
from qqonnx.study.schemes import KMEANS, NF, PWLQ, PWLQ_PAPER, QQ, UNIQ, UQ

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qqonnx.study.results import Results

_DRAWN_BITS = 3
_POINTWISE_BITS = 4
_VALUES = 20_000


def schemes_on_normal() -> Any:
    """Figure 1: bins and levels of UQ, PWLQ and QQ on a normal histogram."""
    figure, axes = panels(3, 1, 8, 5.6, left=0.09, right=0.8, top=0.94, bottom=0.09, hspace=0.5)
    values = draw("normal", _VALUES)
    for ax, scheme in zip(axes[:, 0], (UQ, PWLQ, QQ), strict=True):
        codebook = fit(values, scheme.method, 1 << _DRAWN_BITS)
        edges = np.concatenate(([values.min()], codebook.thresholds, [values.max()]))
        ax.hist(values, bins=120, density=True, color="#d9d9d9")
        for low, high in list(pairwise(edges))[1::2]:
            ax.axvspan(low, high, color=scheme.color, alpha=0.13, lw=0)
        ax.vlines(codebook.thresholds, 0, 0.42, color=scheme.color, lw=1)
        ax.plot(codebook.levels, np.full(codebook.levels.size, -0.03), "^", color=scheme.color)
        counts = np.bincount(assign(values, codebook), minlength=codebook.levels.size)
        most, least = (100 * part / values.size for part in (counts.max(), counts.min()))
        text = f"fullest bin {most:.2g} %,\nemptiest {least:.2g} %\nof the values"
        ax.text(1.02, 0.5, text, transform=ax.transAxes, color=GRAY, va="center")
        ax.set_title(scheme.label, color=scheme.color)
        ax.set_ylim(-0.06, 0.44)
        ax.set_xlim(values.min() - 0.1, values.max() + 0.1)
        ax.set_ylabel("density")
        ax.grid(visible=False)
    axes[2, 0].set_xlabel(
        f"value in standard deviations; {_DRAWN_BITS} bits: bins (lines) and levels (triangles)"
    )
    return figure


def errors_on_normal(results: Results) -> Any:
    """Figure 2: pointwise errors, losses, their ratio, and the accuracy of a small network."""
    figure, axes = panels(
        3, 2, 10, 10, left=0.075, right=0.84, top=0.96, bottom=0.055, wspace=0.75, hspace=0.33
    )
    values = draw("normal", _VALUES)
    grid = np.linspace(values.min(), values.max(), 2001)
    kinds = (("l1", 1, "|error|", "standard deviations"), ("l2", 2, "error²", "variances"))
    for column, (name, power, error, unit) in enumerate(kinds):
        curves = []
        for scheme in (UQ, PWLQ, QQ):
            codebook = fit(values, scheme.method, 1 << _POINTWISE_BITS)
            errors = np.abs(grid - codebook.levels[assign(grid, codebook)]) ** power
            curves.append(
                Curve(grid.tolist(), errors.tolist(), scheme.label, scheme.color, width=1.1)
            )
        pointwise, mean = axes[:2, column]
        draw_curves(pointwise, curves)
        pointwise.set_ylabel(f"{error}, {unit}")
        pointwise.set_xlabel("value, standard deviations")
        pointwise.set_title(f"Pointwise {name.upper()} error at {_POINTWISE_BITS} bits")
        losses = partial(results.losses, "normal", name=name)
        draw_curves(mean, _paper_curves(losses), log=True)
        bits_axis(mean)
        mean.set_title(f"{name.upper()} loss, normal values")
        mean.set_ylabel(f"mean {error}, {unit}")
    ratio = axes[2, 0]
    curves = []
    for name, style in (("l1", "-"), ("l2", "--")):
        uniform, quantile = (results.losses("normal", s.key, name) for s in (UQ, QQ))
        bits = sorted(uniform)
        y = [uniform[b] / quantile[b] for b in bits]
        curves.append(Curve(bits, y, f"{name.upper()}: UQ / QQ", UQ.color, "o", style))
    ratio.axhline(1, color=GRAY, lw=0.8)
    draw_curves(ratio, curves, log=True)
    ratio.set_xticks(range(1, 9))
    ratio.set_xlabel("stored bits per weight")
    ratio.set_ylabel("loss of UQ over loss of QQ")
    ratio.set_title("Above 1, QQ has the smaller error")
    _paper_panel(axes[2, 1], results, "small")
    return figure


def other_distributions(results: Results) -> Any:
    """Figure 2 continued: the losses on every distribution."""
    count = len(DISTRIBUTIONS)
    figure, axes = panels(
        count, 3, 11, 2.45 * count, left=0.06, right=0.86, top=0.97, bottom=0.04, hspace=0.5
    )
    figure.subplots_adjust(wspace=1.05)
    for row, distribution in zip(axes, DISTRIBUTIONS, strict=True):
        values = draw(distribution.key, _VALUES)
        low, high = np.quantile(values, [0.0005, 0.9995])
        row[0].hist(values, bins=np.linspace(low, high, 90).tolist(), density=True, color="#bbbbbb")
        row[0].set_title(distribution.label)
        row[0].set_ylabel("density")
        row[0].set_xlabel("value, standard deviations")
        for ax, name in ((row[1], "l1"), (row[2], "l2")):
            best = results.losses(distribution.key, KMEANS.key, name)
            curves = []
            for scheme in (UQ, PWLQ, QQ, UNIQ, NF):
                losses = results.losses(distribution.key, scheme.key, name)
                ratios = {bits: loss / best[bits] for bits, loss in losses.items()}
                curves.append(scheme_curve(scheme, ratios))
            ax.axhline(1, color=KMEANS.color, lw=0.8)
            draw_curves(ax, curves, log=True)
            bits_axis(ax)
            ax.set_ylabel(f"{name.upper()} over k-means'")
    return figure


def accuracies(results: Results, models: Sequence[str]) -> Any:
    """Figures 3 to 6: accuracy against bits, with the float accuracy as a line."""
    figure, axes = panels(
        1,
        len(models),
        5.4 * len(models) + 0.6,
        3.9,
        left=0.13 if len(models) == 1 else 0.07,
        right=0.7 if len(models) == 1 else 0.85,
        top=0.91,
        bottom=0.13,
        wspace=0.7,
    )
    for ax, model in zip(axes[0], models, strict=True):
        _paper_panel(ax, results, model)
    return figure


def accuracy_panel(ax: Any, results: Results, model: str, curves: Sequence[Curve]) -> None:
    """Draw accuracies in percent against bits, and the float accuracy as a line."""
    top = 100 * results.float_accuracy(model)
    ax.axhline(top, color=GRAY, lw=0.9, ls=":")
    ax.text(1.0, top + 1.2, f"float {top:.1f} %", color=GRAY, va="bottom")
    ax.set_ylim(0, 108)
    draw_curves(ax, curves)
    bits_axis(ax)
    ax.set_title(results.label_of(model))
    ax.set_ylabel("top-1 accuracy, %")


def _paper_panel(ax: Any, results: Results, model: str) -> None:
    curves = _paper_curves(partial(results.accuracies, model), factor=100)
    accuracy_panel(ax, results, model, curves)


def _paper_curves(
    points_of: Callable[[str], Mapping[int, float]], *, factor: float = 1
) -> list[Curve]:
    """Return the curves of the paper's schemes and k-means from their points by key.

    Published PWLQ has two curves: at the bits of its name, and at the bits that it stores.
    """
    published = points_of(PWLQ_PAPER.key)
    stored = {bits + 1: value for bits, value in published.items()}
    return [
        *(scheme_curve(scheme, points_of(scheme.key), factor=factor) for scheme in (UQ, PWLQ)),
        scheme_curve(PWLQ_PAPER, published, "PWLQ publ. b", style="--", factor=factor),
        scheme_curve(PWLQ_PAPER, stored, "PWLQ publ. b+1", factor=factor),
        *(scheme_curve(scheme, points_of(scheme.key), factor=factor) for scheme in (QQ, KMEANS)),
    ]

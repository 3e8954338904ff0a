"""The paper's figures 1 to 6, with our numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import assign, fit
from qqonnx.study.distributions import DISTRIBUTIONS, draw
from qqonnx.study.drawing import GRAY, End, Line, curves, label_ends, log_scale, panels
from qqonnx.study.schemes import KMEANS, NF, PWLQ, PWLQ_PAPER, QQ, UNIQ, UQ

if TYPE_CHECKING:
    from qqonnx.study.results import Results

_DRAWN_BITS = 3
_POINTWISE_BITS = 4
_DRAWN = 20_000


def schemes_on_normal() -> Any:
    """Figure 1: bins and levels of UQ, PWLQ and QQ on a normal histogram."""
    figure, axes = panels(3, 1, 8, 5.6, left=0.09, right=0.8, top=0.94, bottom=0.09, hspace=0.5)
    values = draw("normal", _DRAWN)
    for ax, scheme in zip(axes[:, 0], (UQ, PWLQ, QQ), strict=True):
        codebook = fit(values, scheme.method, 1 << _DRAWN_BITS)
        edges = np.concatenate(([values.min()], codebook.thresholds, [values.max()]))
        ax.hist(values, bins=120, density=True, color="#d9d9d9")
        for number, (low, high) in enumerate(pairwise(edges)):
            if number % 2:
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
    """Figure 2: pointwise errors, losses, their ratio, and a small network's accuracy."""
    figure, axes = panels(
        3, 2, 10, 10, left=0.075, right=0.84, top=0.96, bottom=0.055, wspace=0.75, hspace=0.33
    )
    values = draw("normal", _DRAWN)
    grid = np.linspace(values.min(), values.max(), 2001)
    for ax, power, name in ((axes[0, 0], 1, "|error|"), (axes[0, 1], 2, "error²")):
        ends = []
        for scheme in (UQ, PWLQ, QQ):
            codebook = fit(values, scheme.method, 1 << _POINTWISE_BITS)
            error = np.abs(grid - codebook.levels[assign(grid, codebook)]) ** power
            ax.plot(grid, error, color=scheme.color, lw=1.1)
            ends.append(End(grid.tolist(), error.tolist(), scheme.label, scheme.color))
        unit = "standard deviations" if power == 1 else "variances"
        ax.set_ylabel(f"{name}, {unit}")
        ax.set_xlabel("value, standard deviations")
        ax.set_title(f"Pointwise L{power} error at {_POINTWISE_BITS} bits")
        label_ends(ax, ends)
    for ax, name, unit in (
        (axes[1, 0], "l1", "standard deviations"),
        (axes[1, 1], "l2", "variances"),
    ):
        curves(ax, _paper_lines(results, "normal", name), log=True)
        ax.set_title(f"{name.upper()} loss, normal values")
        ax.set_ylabel(f"mean {'|error|' if name == 'l1' else 'error²'}, {unit}")
        ax.set_xlabel("bits stored a weight")
    ratio = axes[2, 0]
    ends = []
    for name, style in (("l1", "-"), ("l2", "--")):
        uniform, quantile = (results.losses("normal", s.key, name) for s in (UQ, QQ))
        bits = sorted(uniform)
        y = [uniform[b] / quantile[b] for b in bits]
        ratio.plot(bits, y, style, color=UQ.color, marker="o")
        ends.append(End(bits, y, f"{name.upper()}: UQ / QQ", UQ.color, "o", style))
    log_scale(ratio)
    ratio.axhline(1, color=GRAY, lw=0.8)
    ratio.set_xticks(range(1, 9))
    ratio.set_xlabel("bits stored a weight")
    ratio.set_ylabel("loss of UQ over loss of QQ")
    ratio.set_title("Above 1, QQ errs less")
    label_ends(ratio, ends)
    _accuracy_panel(axes[2, 1], results, "small")
    return figure


def _paper_lines(results: Results, distribution: str, name: str) -> list[Line]:
    published = results.losses(distribution, PWLQ_PAPER.key, name)
    return [
        Line(UQ, results.losses(distribution, UQ.key, name)),
        Line(PWLQ, results.losses(distribution, PWLQ.key, name)),
        Line(PWLQ_PAPER, published, "PWLQ publ. b", dashed=True),
        Line(PWLQ_PAPER, {b + 1: v for b, v in published.items()}, "PWLQ publ. b+1"),
        Line(QQ, results.losses(distribution, QQ.key, name)),
        Line(KMEANS, results.losses(distribution, KMEANS.key, name)),
    ]


def other_distributions(results: Results) -> Any:
    """Figure 2 continued: the losses on every distribution."""
    count = len(DISTRIBUTIONS)
    figure, axes = panels(
        count, 3, 11, 2.45 * count, left=0.06, right=0.86, top=0.97, bottom=0.04, hspace=0.5
    )
    figure.subplots_adjust(wspace=1.05)
    for row, distribution in zip(axes, DISTRIBUTIONS, strict=True):
        values = draw(distribution.key, _DRAWN)
        low, high = np.quantile(values, [0.0005, 0.9995])
        row[0].hist(values, bins=np.linspace(low, high, 90).tolist(), density=True, color="#bbbbbb")
        row[0].set_title(distribution.label)
        row[0].set_ylabel("density")
        row[0].set_xlabel("value, standard deviations")
        for ax, name in ((row[1], "l1"), (row[2], "l2")):
            best = results.losses(distribution.key, KMEANS.key, name)
            lines = []
            for scheme in (UQ, PWLQ, QQ, UNIQ, NF):
                losses = results.losses(distribution.key, scheme.key, name)
                lines.append(
                    Line(scheme, {bits: loss / best[bits] for bits, loss in losses.items()})
                )
            ax.axhline(1, color=KMEANS.color, lw=0.8)
            curves(ax, lines, log=True)
            ax.set_ylabel(f"{name.upper()} over k-means'")
            ax.set_xlabel("bits stored a weight")
    return figure


def accuracies(results: Results, models: list[str]) -> Any:
    """Figures 3 to 6: accuracy against bits, float accuracy as a line."""
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
        _accuracy_panel(ax, results, model)
    return figure


def related(results: Results) -> Any:
    """UNIQ and NormalFloat beside UQ, QQ and k-means, on every network."""
    models = ["small", *results.network_names()]
    columns = 2
    rows = -(-len(models) // columns)
    figure, axes = panels(
        rows, columns, 10, 3.4 * rows, left=0.07, right=0.86, top=1 - 0.3 / (3.4 * rows), hspace=0.4
    )
    figure.subplots_adjust(bottom=0.55 / (3.4 * rows), wspace=0.55)
    for ax in axes.flat[len(models) :]:
        ax.set_visible(False)
    for ax, model in zip(axes.flat, models, strict=False):
        lines = [Line(s, results.accuracies(model, s.key)) for s in (UQ, QQ, UNIQ, NF, KMEANS)]
        _finish(ax, results, model, lines)
    return figure


def _accuracy_panel(ax: Any, results: Results, model: str) -> None:
    published = results.accuracies(model, PWLQ_PAPER.key)
    lines = [
        Line(UQ, results.accuracies(model, UQ.key)),
        Line(PWLQ, results.accuracies(model, PWLQ.key)),
        Line(PWLQ_PAPER, published, "PWLQ publ. b", dashed=True),
        Line(PWLQ_PAPER, {b + 1: v for b, v in published.items()}, "PWLQ publ. b+1"),
        Line(QQ, results.accuracies(model, QQ.key)),
        Line(KMEANS, results.accuracies(model, KMEANS.key)),
    ]
    _finish(ax, results, model, lines)


def _finish(ax: Any, results: Results, model: str, lines: list[Line]) -> None:
    top = 100 * results.float_accuracy(model)
    ax.axhline(top, color=GRAY, lw=0.9, ls=":")
    ax.text(1.0, top + 1.2, f"float {top:.1f} %", color=GRAY, va="bottom")
    ax.set_ylim(0, 108)
    curves(ax, lines, factor=100)
    ax.set_title(results.label_of(model))
    ax.set_xlabel("bits stored a weight")
    ax.set_ylabel("top-1 accuracy, %")

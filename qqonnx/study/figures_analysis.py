"""Figures beyond the paper: related schemes, predictors of accuracy, tails, exponents, variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.study.correlation import PREDICTORS, correlations
from qqonnx.study.drawing import GRAY, Curve, bars, bits_axis, draw_curves, panels, scheme_curve
from qqonnx.study.figures_paper import accuracy_panel
from qqonnx.study.schemes import ALL, KMEANS, NF, QQ, UNIQ, UQ, VARIANTS
from qqonnx.study.variants import tails_by_bits, variant_results

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qqonnx.study.results import Results

_COLORS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")


def related(results: Results) -> Any:
    """UNIQ and NormalFloat beside UQ, QQ and k-means, on every network."""
    figure, cells = _network_grid(results, 10, 3.4, left=0.07, right=0.86, wspace=0.55)
    for ax, model in cells:
        curves = [
            scheme_curve(scheme, results.accuracies(model, scheme.key), factor=100)
            for scheme in (UQ, QQ, UNIQ, NF, KMEANS)
        ]
        accuracy_panel(ax, results, model, curves)
    return figure


def variant_accuracies(results: Results) -> Any:
    """Accuracy of QQ's variants against bits, on every network."""
    figure, cells = _network_grid(results, 10.5, 3.6, left=0.065, right=0.83, wspace=0.85)
    for ax, model in cells:
        curves = []
        for scheme in (QQ, *VARIANTS, KMEANS):
            points = results.accuracies(model, scheme.key).items()
            shown = {bits: value for bits, value in points if 2 <= bits <= 6}
            curves.append(scheme_curve(scheme, shown, factor=100))
        draw_curves(ax, curves)
        bits_axis(ax, 2, 6)
        ax.set_title(results.label_of(model))
        ax.set_ylabel("top-1 accuracy, %")
    return figure


def _network_grid(
    results: Results, width: float, row_height: float, **adjust: float
) -> tuple[Any, Iterator[tuple[Any, str]]]:
    """Return a figure with two columns, and its axes with a network for each."""
    models = ["small", *results.network_names()]
    rows = -(-len(models) // 2)
    height = row_height * rows
    figure, axes = panels(
        rows, 2, width, height, top=1 - 0.3 / height, bottom=0.55 / height, hspace=0.4, **adjust
    )
    for ax in axes.flat[len(models) :]:
        ax.set_visible(False)
    return figure, zip(axes.flat, models, strict=False)


def predictors(results: Results) -> Any:
    """Rank correlations of error measures with accuracy, and scatter plots of three measures."""
    figure, axes = panels(
        2, 3, 11, 7.2, left=0.175, right=0.975, top=0.93, bottom=0.085, hspace=0.42, wspace=0.28
    )
    entries = correlations(results.layers)
    names = [PREDICTORS[entry.predictor] for entry in entries]
    groupings = (
        ("pooled", "all weights, methods, bits"),
        ("within_weight", "methods and bits of one weight"),
        ("within_choice", "methods at one weight and bits"),
    )
    for ax, (attribute, title) in zip(axes[0], groupings, strict=True):
        values = [getattr(entry, attribute) for entry in entries]
        bars(ax, names if ax is axes[0, 0] else [""] * len(names), values, [QQ.color] * len(names))
        ax.set_title(title)
        ax.set_xlabel("Spearman's ρ with top-1 accuracy")
    models = list(dict.fromkeys(row["model"] for row in results.layers))
    measures = (
        ("l2", "L2 error"),
        ("weighted", "activation-weighted error"),
        ("kl", "output KL, nats"),
    )
    for ax, (measure, label) in zip(axes[1], measures, strict=True):
        for model, color in zip(models, _COLORS, strict=False):
            rows = [row for row in results.layers if row["model"] == model]
            x = [max(row[measure], 1e-9) for row in rows]
            y = [100 * row["lost"] for row in rows]
            ax.plot(x, y, ".", color=color, alpha=0.35, ms=4, mew=0)
        ax.set_xscale("log")
        ax.set_yscale("symlog", linthresh=1)
        ax.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        ax.set_ylim(-1.2, 120)
        ax.set_xlabel(label)
    left = axes[1, 0]
    left.set_ylabel("top-1 lost, points")
    for line, (model, color) in enumerate(zip(models, _COLORS, strict=False)):
        text = results.label_of(model)
        left.text(0.03, 0.93 - 0.09 * line, text, color=color, transform=left.transAxes)
    return figure


def tails(results: Results) -> Any:
    """The error of QQ's two outermost bins, on normal values and in networks."""
    figure, axes = panels(1, 3, 12, 3.9, left=0.055, right=0.875, top=0.9, bottom=0.14, wspace=0.85)
    normal, weights, outputs = axes[0]
    values = results.losses("normal", QQ.key, "outer_values")
    draw_curves(
        normal,
        [
            *(
                scheme_curve(s, results.losses("normal", s.key, "outer_squared"), factor=100)
                for s in (QQ, UQ, KMEANS)
            ),
            scheme_curve(QQ, values, "QQ: their values", style="--", factor=100),
        ],
    )
    normal.set_title("Squared error of 2 outer bins, normal")
    normal.set_ylabel("share of all squared error, %")
    curves = []
    for scheme in (QQ, KMEANS):
        by_bits = tails_by_bits(results, scheme.key)
        for name, text, style in (("squared", "error²", "-"), ("weighted", "output", "--")):
            points = {bits: row[name] for bits, row in by_bits.items()}
            label = f"{scheme.label}: {text}"
            curves.append(scheme_curve(scheme, points, label, style=style, factor=100))
    draw_curves(weights, curves)
    weights.set_title("The same, networks' weights")
    weights.set_ylabel("share of 2 outer bins, %")
    by_bits = tails_by_bits(results, QQ.key)
    curves = [
        Curve(list(by_bits), [row[f"kl_{part}"] for row in by_bits.values()], label, color, "o")
        for part, label, color in (
            ("all", "all bins", QQ.color),
            ("outer", "outer 2 bins only", "#D55E00"),
            ("inner", "all but the outer 2", "#0072B2"),
        )
    ]
    draw_curves(outputs, curves, log=True)
    outputs.set_title("Networks under QQ, by quantized bins")
    outputs.set_ylabel("KL to the float outputs, nats")
    for ax in (normal, weights):
        bits_axis(ax)
        ax.set_ylim(-2, 104)
    outputs.set_xticks(range(1, 9))
    outputs.set_xlabel("stored bits per weight")
    return figure


def exponents(results: Results) -> Any:
    """The density exponent: squared error, calibration KL and accuracy of whole networks."""
    models = list(dict.fromkeys(row["model"] for row in results.exponents))
    height = 3.1 * len(models)
    figure, axes = panels(
        len(models),
        3,
        11,
        height,
        left=0.075,
        right=0.92,
        top=1 - 0.35 / height,
        bottom=0.55 / height,
        wspace=0.75,
        hspace=0.42,
    )
    measures = (
        ("noise", "squared error over mean square", 1, np.argmin),
        ("calibration_kl", "calibration KL, nats", 1, np.argmin),
        ("top1", "top-1 accuracy, %", 100, np.argmax),
    )
    for row, model in zip(axes, models, strict=True):
        entries = [entry for entry in results.exponents if entry["model"] == model]
        all_bits = sorted({entry["bits"] for entry in entries})
        for ax, (name, label, factor, best_of) in zip(row, measures, strict=True):
            curves = []
            for bits, color in zip(all_bits, _COLORS, strict=False):
                points = sorted((e["alpha"], e[name]) for e in entries if e["bits"] == bits)
                x, y = [alpha for alpha, _ in points], [factor * value for _, value in points]
                best = best_of(y)
                ax.plot(x[best], y[best], "o", color=color)
                curves.append(Curve(x, y, f"{bits} bits", color))
            draw_curves(ax, curves, log=name != "top1")
            ax.set_ylabel(label)
            ax.set_xlabel("α (0: UQ, 1: QQ); dot: best")
            ax.set_xticks([0, 1 / 3, 2 / 3, 1], ["0", "⅓", "⅔", "1"])
        row[0].set_title(results.label_of(model))
    return figure


def variants(results: Results) -> Any:
    """How far each variant closes QQ's gap to k-means, in error and in accuracy."""
    figure, axes = panels(1, 3, 11.5, 3.9, left=0.15, right=0.97, top=0.9, bottom=0.14, wspace=0.22)
    labels = {scheme.key: scheme.label for scheme in ALL}
    entries = variant_results(results)
    names = [labels[entry.scheme] for entry in entries]
    colors = [GRAY if entry.scheme in (QQ.key, KMEANS.key) else QQ.color for entry in entries]
    measures = (
        ("error_gap", "Distributions: gap closed, %", "dB of squared error: QQ 0, k-means 100"),
        ("network_gap", "Networks: gap closed, %", "the same"),
        ("accuracy", "Networks: mean top-1, %", "2 to 5 bits"),
    )
    for ax, (attribute, title, label) in zip(axes[0], measures, strict=True):
        values = [getattr(entry, attribute) for entry in entries]
        percents = [float("nan") if value is None else 100 * value for value in values]
        shown = names if ax is axes[0, 0] else [""] * len(names)
        bars(ax, shown, percents, colors, "{:.1f}", lowest=-60)
        ax.set_title(title)
        ax.set_xlabel(label)
    return figure

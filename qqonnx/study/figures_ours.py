"""Figures of the open question: predictors of accuracy, tails, exponents and mendings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.study.correlation import PREDICTORS, correlations
from qqonnx.study.drawing import GRAY, End, Line, bars, curves, label_ends, log_scale, panels
from qqonnx.study.mending import mendings, tails_by_bits
from qqonnx.study.schemes import ALL, KMEANS, MENDED, QQ, UQ

if TYPE_CHECKING:
    from qqonnx.study.results import Results

_BITS_COLORS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")


def predictors(results: Results) -> Any:
    """Rank correlations of error measures with accuracy, and two of them drawn."""
    figure, axes = panels(
        2, 3, 11, 7.2, left=0.175, right=0.975, top=0.93, bottom=0.085, hspace=0.42, wspace=0.28
    )
    found = correlations(results.layers)
    titles = (
        ("pooled", "all weights, methods, bits"),
        ("within_weight", "methods and bits of one weight"),
        ("within_choice", "methods at one weight and bits"),
    )
    names = [PREDICTORS[entry.predictor] for entry in found]
    for ax, (attribute, title) in zip(axes[0], titles, strict=True):
        values = [getattr(entry, attribute) for entry in found]
        bars(ax, names if ax is axes[0, 0] else [""] * len(names), values, [QQ.color] * len(names))
        ax.set_title(title)
        ax.set_xlabel("Spearman's ρ with top-1 accuracy")
        ax.axvline(0, color=GRAY, lw=0.8)
    scatter = (
        ("l2", "L2 error"),
        ("weighted", "activation-weighted error"),
        ("kl", "output KL, nats"),
    )
    models = list(dict.fromkeys(row["model"] for row in results.layers))
    for ax, (name, label) in zip(axes[1], scatter, strict=True):
        for model, color in zip(models, _BITS_COLORS, strict=False):
            rows = [row for row in results.layers if row["model"] == model]
            x = [max(row[name], 1e-9) for row in rows]
            y = [100 * row["lost"] for row in rows]
            ax.plot(x, y, ".", color=color, alpha=0.35, ms=4, mew=0)
        ax.set_xscale("log")
        ax.set_yscale("symlog", linthresh=1)
        ax.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        ax.set_ylim(-1.2, 120)
        ax.set_xlabel(label)
    axes[1, 0].set_ylabel("top-1 lost, points")
    for at, (model, color) in enumerate(zip(models, _BITS_COLORS, strict=False)):
        left = axes[1, 0]
        text = results.label_of(model)
        left.text(0.03, 0.93 - 0.09 * at, text, color=color, transform=left.transAxes)
    return figure


def tails(results: Results) -> Any:
    """Where QQ's error comes from: the two outermost bins."""
    figure, axes = panels(1, 3, 12, 3.9, left=0.055, right=0.875, top=0.9, bottom=0.14, wspace=0.85)
    shares = axes[0, 0]
    lines = [
        *(Line(s, results.losses("normal", s.key, "outer_squared")) for s in (QQ, UQ, KMEANS)),
        Line(QQ, results.losses("normal", QQ.key, "outer_values"), "QQ: their values", dashed=True),
    ]
    curves(shares, lines, factor=100)
    shares.set_title("Squared error of 2 outer bins, normal")
    shares.set_ylabel("share of all squared error, %")
    network = axes[0, 1]
    found = tails_by_bits(results, QQ.key)
    network_lines = []
    for scheme in (QQ, KMEANS):
        by_bits = tails_by_bits(results, scheme.key)
        for name, text in (("squared", "error²"), ("weighted", "output")):
            points = {bits: row[name] for bits, row in by_bits.items()}
            label = f"{scheme.label}: {text}"
            network_lines.append(Line(scheme, points, label, dashed=name == "weighted"))
    curves(network, network_lines, factor=100)
    network.set_title("The same, networks' weights")
    network.set_ylabel("share of 2 outer bins, %")
    kl = axes[0, 2]
    ends = []
    for part, text, color in (
        ("all", "all bins", QQ.color),
        ("outer", "outer 2 bins only", "#D55E00"),
        ("inner", "all but the outer 2", "#0072B2"),
    ):
        points = {b: row[f"kl_{part}"] for b, row in found.items()}
        if points:
            kl.plot(list(points), list(points.values()), color=color, marker="o")
            ends.append(End(list(points), list(points.values()), text, color, "o"))
    log_scale(kl)
    kl.set_title("Networks under QQ, by bins quantized")
    kl.set_ylabel("KL to the float outputs, nats")
    label_ends(kl, ends)
    for ax in axes[0]:
        ax.set_xlabel("bits stored a weight")
        ax.set_xticks(range(1, 9))
    for ax in axes[0, :2]:
        ax.set_ylim(-2, 104)
    return figure


def exponents(results: Results) -> Any:
    """The density exponent: noise, calibration KL and accuracy of whole networks."""
    models = list(dict.fromkeys(row["model"] for row in results.exponents))
    figure, axes = panels(
        len(models),
        3,
        11,
        3.1 * len(models),
        left=0.075,
        right=0.92,
        top=1 - 0.35 / (3.1 * len(models)),
        bottom=0.55 / (3.1 * len(models)),
        wspace=0.75,
        hspace=0.42,
    )
    kinds = (
        ("noise", "squared error over mean square"),
        ("calibration_kl", "calibration KL, nats"),
        ("top1", "top-1 accuracy, %"),
    )
    for row, model in zip(axes, models, strict=True):
        for ax, (name, label) in zip(row, kinds, strict=True):
            ends = []
            for bits, color in zip(_bits_of(results, model), _BITS_COLORS, strict=False):
                points = sorted(
                    (r["alpha"], r[name] * (100 if name == "top1" else 1))
                    for r in results.exponents
                    if r["model"] == model and r["bits"] == bits
                )
                x, y = np.array(points).T
                ax.plot(x, y, color=color)
                best = np.argmax(y) if name == "top1" else np.argmin(y)
                ax.plot(x[best], y[best], "o", color=color)
                ends.append(End(x.tolist(), y.tolist(), f"{bits} bits", color))
            if name != "top1":
                log_scale(ax)
            ax.set_ylabel(label)
            ax.set_xlabel("α (0 as UQ, 1 as QQ); dot: best")
            ax.set_xticks([0, 1 / 3, 2 / 3, 1], ["0", "⅓", "⅔", "1"])
            label_ends(ax, ends)
        row[0].set_title(results.label_of(model))
    return figure


def _bits_of(results: Results, model: str) -> list[int]:
    return sorted({row["bits"] for row in results.exponents if row["model"] == model})


def mended(results: Results) -> Any:
    """Which mending closes QQ's gap to k-means, in error and in accuracy."""
    figure, axes = panels(1, 3, 11.5, 3.9, left=0.15, right=0.97, top=0.9, bottom=0.14, wspace=0.22)
    by_key = {scheme.key: scheme for scheme in ALL}
    found = mendings(results)
    labels = [by_key[entry.scheme].label for entry in found]
    colors = [GRAY if entry.scheme in (QQ.key, KMEANS.key) else QQ.color for entry in found]
    kinds = (
        ("error_gap", "Distributions: gap closed, %"),
        ("network_gap", "Networks: gap closed, %"),
        ("accuracy", "Networks: mean top-1, %"),
    )
    for ax, (attribute, title) in zip(axes[0], kinds, strict=True):
        values = [getattr(entry, attribute) for entry in found]
        shown = [float("nan") if value is None else 100 * value for value in values]
        bars(
            ax,
            labels if ax is axes[0, 0] else [""] * len(labels),
            shown,
            colors,
            "{:.1f}",
            lowest=-60,
        )
        ax.set_title(title)
        ax.axvline(0, color=GRAY, lw=0.8)
    axes[0, 0].set_xlabel("gap in dB of squared error: QQ 0, k-means 100")
    axes[0, 1].set_xlabel("the same")
    axes[0, 2].set_xlabel("2 to 5 bits")
    return figure


def mended_accuracies(results: Results) -> Any:
    """Accuracy of the mended schemes against bits, on every network."""
    models = ["small", *results.network_names()]
    rows = -(-len(models) // 2)
    figure, axes = panels(
        rows, 2, 10.5, 3.6 * rows, left=0.065, right=0.83, top=1 - 0.3 / (3.6 * rows), hspace=0.4
    )
    figure.subplots_adjust(bottom=0.55 / (3.6 * rows), wspace=0.85)
    for ax in axes.flat[len(models) :]:
        ax.set_visible(False)
    for ax, model in zip(axes.flat, models, strict=False):
        points = {
            s: {b: v for b, v in results.accuracies(model, s.key).items() if 2 <= b <= 6}
            for s in (QQ, *MENDED, KMEANS)
        }
        curves(ax, [Line(s, p) for s, p in points.items()], factor=100)
        ax.set_xlim(1.8, 6.2)
        ax.set_xticks(range(2, 7))
        ax.set_title(results.label_of(model))
        ax.set_xlabel("bits stored a weight")
        ax.set_ylabel("top-1 accuracy, %")
    return figure

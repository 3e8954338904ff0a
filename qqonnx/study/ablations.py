"""Ablations of QQ on whole networks: its outermost bins, and the exponent of its level density."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.codebooks import Method, assign, fit
from qqonnx.codebooks.quantile_variants import fit_at_alpha
from qqonnx.study.simulation import open_simulation, quantized

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.study.models import StudyModel
    from qqonnx.study.results import Row

ALPHAS = tuple(round(step / 12, 4) for step in range(13))
"""The exponents of the study, from 0 (bins of equal width) to 1 (bins of equal mass)."""


def measure_tails(model: StudyModel, bits: int, method: str) -> list[Row]:
    """Measure the share of the error in the outermost bins, and the outputs without it.

    Args:
        model: the network; all its weights are quantized.
        bits: the bit-width.
        method: a codebook method of 2^bits levels.

    Returns:
        One row: model, method, bits; values, squared, weighted: the shares of each weight's lowest
        and highest bin in the values, in the squared error (relative to the weight's mean square),
        and in that error weighted with the activations' second moments; kl (nats) and top1 on
        held-out images with all bins quantized (`_all`), with the outermost bins left float
        (`_inner`), and with only these quantized (`_outer`).
    """
    simulation = open_simulation(model)
    # Sums over the outermost bins, and over all bins.
    sums = {name: np.zeros(2) for name in ("values", "squared", "weighted")}
    variants: dict[str, dict[str, NDArray[np.float32]]] = {"all": {}, "inner": {}, "outer": {}}
    for name, weight in simulation.weights.items():
        codebook = fit(weight.reshape(-1), method, 1 << bits)
        indices = assign(weight, codebook)
        full = codebook.levels.astype(weight.dtype)[indices]
        outermost = (indices == 0) | (indices == codebook.levels.size - 1)
        variants["all"][name] = full
        variants["inner"][name] = np.where(outermost, weight, full)
        variants["outer"][name] = np.where(outermost, full, weight)
        moment = simulation.second_moments.get(name)
        if moment is None:
            continue
        exact = weight.astype(np.float64)
        square = np.square(exact - full)
        sums["values"] += float(outermost.sum()), weight.size
        for kind, factor in (("squared", np.ones(1)), ("weighted", moment)):
            signal = float((np.square(exact) * factor).sum())
            if signal > 0:
                error = square * factor / signal
                sums[kind] += float(error[outermost].sum()), float(error.sum())
    row: Row = {"model": model.name, "method": method, "bits": bits}
    row |= {kind: float(outer / both) if both else 0.0 for kind, (outer, both) in sums.items()}
    for part, weights in variants.items():
        score = simulation.score(weights)
        row[f"kl_{part}"] = score.kl / score.samples
        row[f"top1_{part}"] = score.top1 / score.samples
    return [row]


def measure_exponent(model: StudyModel, bits: int, alpha: float) -> list[Row]:
    """Quantize all weights of a network with QQ-alpha at a given exponent.

    Args:
        model: the network.
        bits: the bit-width.
        alpha: the exponent, from 0 (bins of equal width) to 1 (bins of equal mass).

    Returns:
        One row: model, bits, alpha; noise (squared error of all weights over their squares),
        calibration_kl (nats, on calibration images), kl (nats) and top1 (share) on held-out
        images.
    """
    simulation = open_simulation(model)
    method = Method("qq-alpha at", "a given α", partial(fit_at_alpha, alpha=alpha))
    weights = quantized(simulation, method, 1 << bits)
    error = signal = 0.0
    for name, weight in simulation.weights.items():
        exact = weight.astype(np.float64)
        error += float(np.square(exact - weights[name]).sum())
        signal += float(np.square(exact).sum())
    score = simulation.score(weights)
    return [
        {
            "model": model.name,
            "bits": bits,
            "alpha": alpha,
            "noise": error / signal,
            "calibration_kl": simulation.calibration_kl(weights),
            "kl": score.kl / score.samples,
            "top1": score.top1 / score.samples,
        }
    ]

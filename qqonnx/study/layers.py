"""One weight quantized, all others float: what predicts the accuracy?"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import assign, distortion, fit, index_entropy
from qqonnx.model.load import load
from qqonnx.model.select import select
from qqonnx.study.jobs import Measurement
from qqonnx.study.simulation import open_simulation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.study.models import StudyModel
    from qqonnx.study.results import Row
    from qqonnx.study.schemes import Scheme

LEAST_SIZE = 100
"""Smaller weights are left out: their codebooks are lossless at most bits."""


def layer_jobs(
    model: StudyModel, schemes: Sequence[Scheme], bits: Sequence[int]
) -> list[Measurement]:
    """Return a `measure_layer` job for each weight of rank 2 or more and `LEAST_SIZE` values."""
    cost = len(schemes) * len(bits) * (0.15 * model.path.stat().st_size + 1e6)
    return [
        Measurement(measure_layer, (model, weight.name, schemes, bits), cost)
        for weight in select(load(model.path))[0]
        if len(weight.shape) >= 2 and prod(weight.shape) >= LEAST_SIZE
    ]


def measure_layer(
    model: StudyModel, name: str, schemes: Sequence[Scheme], bits: Sequence[int]
) -> list[Row]:
    """Quantize one weight of a network with each scheme at each bit-width.

    Args:
        model: the network.
        name: the weight's name.
        schemes: schemes with one codebook per tensor.
        bits: bit-widths; those that a scheme does not have are left out.

    Returns:
        A row for each scheme and bit-width: model, weight, size, scheme, bits; the candidate
        predictors l1, l2, sqnr (dB), entropy (bits), weighted (squared error weighted with the
        activations' second moments, over the weight's own), kl (nats, on calibration images); and
        the targets top1 and agreement (shares, on held-out images) and lost (float top1 minus
        top1).
    """
    simulation = open_simulation(model)
    weight = simulation.weights[name]
    moment = simulation.second_moments.get(name)
    float_top1 = float((simulation.reference.argmax(axis=1) == simulation.targets).mean())
    rows = []
    for scheme, width in product(schemes, bits):
        levels = scheme.levels_at(width)
        if levels is None:
            continue
        codebook = fit(weight.reshape(-1), scheme.method, levels)
        indices = assign(weight, codebook)
        quantized = codebook.levels.astype(weight.dtype)[indices]
        error = distortion(weight, quantized)
        score = simulation.score({name: quantized})
        top1 = score.top1 / score.samples
        rows.append(
            {
                "model": model.name,
                "weight": name,
                "size": weight.size,
                "scheme": scheme.key,
                "bits": width,
                "l1": error.l1,
                "l2": error.l2,
                "sqnr": min(error.sqnr, 200.0),
                "entropy": index_entropy(np.bincount(indices.reshape(-1))),
                "weighted": 0.0 if moment is None else _weighted(weight, quantized, moment),
                "kl": simulation.calibration_kl({name: quantized}),
                "top1": top1,
                "agreement": score.agreeing / score.samples,
                "lost": float_top1 - top1,
            }
        )
    return rows


def _weighted(weight: NDArray[Any], quantized: NDArray[Any], moment: NDArray[np.float64]) -> float:
    exact = weight.astype(np.float64)
    error = np.square(exact - quantized) * moment
    signal = float((np.square(exact) * moment).sum())
    return float(error.sum()) / signal if signal > 0 else 0.0

"""The density exponent α of QQ-alpha, one for a whole network: chosen by error or by outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import Method
from qqonnx.codebooks.quantile_variants import fit_at_alpha
from qqonnx.evaluation.metrics import count
from qqonnx.study.cache import digest_of
from qqonnx.study.probe import CALIBRATION_IMAGES, PROBE_IMAGES, open_probe, quantized

if TYPE_CHECKING:
    from qqonnx.study.cache import StudyModel

ALPHAS = tuple(round(step / 12, 4) for step in range(13))


@dataclass(frozen=True)
class AlphaJob:
    """All weights of a network under QQ-alpha with a given exponent.

    Attributes:
        model: the network.
        bits: the bit-width.
        alpha: the exponent, 0 (bins of equal width) to 1 (of equal mass).
    """

    model: StudyModel
    bits: int
    alpha: float

    @property
    def key(self) -> str:
        """What the result depends on, but for versions."""
        content = digest_of(self.model.path, self.model.calibration.name)
        return f"alpha {content} {self.alpha} {self.bits} {PROBE_IMAGES} {CALIBRATION_IMAGES}"

    @property
    def cost(self) -> float:
        """Time it takes, in the unit of `NetworkJob`."""
        return self.model.path.stat().st_size + 6e6

    def run(self) -> dict[str, Any]:
        """Return what the exponent costs.

        Returns:
            noise (squared error of all weights over their squares), calibration_kl (nats, on
            calibration images), kl (nats) and top1 (share) on held-out images.
        """
        probe = open_probe(self.model)
        method = Method("qq-alpha at", "a given α", partial(fit_at_alpha, alpha=self.alpha))
        changed = quantized(probe, method, 1 << self.bits)
        error = signal = 0.0
        for name, weight in probe.weights.items():
            error += float(np.square(weight.astype(np.float64) - changed[name]).sum())
            signal += float(np.square(weight.astype(np.float64)).sum())
        nothing = np.zeros(len(probe.calibration), np.int64)
        calibration = count(
            probe.outputs(probe.calibration, changed), nothing, probe.calibration_reference
        )
        found = count(probe.outputs(probe.images, changed), probe.answers, probe.reference)
        return {
            "noise": error / signal,
            "calibration_kl": calibration.kl / calibration.images,
            "kl": found.kl / found.images,
            "top1": found.top1 / found.images,
        }

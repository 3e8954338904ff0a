"""One weight quantized, all others float: what predicts the accuracy that is left?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.codebooks import assign, distortion, fit, index_entropy
from qqonnx.evaluation.metrics import count
from qqonnx.study.models import digest_of
from qqonnx.study.networks import FLOAT_BITS
from qqonnx.study.probe import CALIBRATION_IMAGES, PROBE_IMAGES, Probe, decoded, open_probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.codebooks import Codebook
    from qqonnx.study.models import StudyModel
    from qqonnx.study.schemes import Scheme

LEAST_SIZE = 100
"""Weights with fewer entries are left out: at most bit-widths their codebook is lossless."""


@dataclass(frozen=True)
class LayerJob:
    """One weight of a network, quantized by every scheme at every bit-width.

    Attributes:
        model: the network.
        weight: the weight's name.
        size: its number of entries.
        schemes: with one codebook a tensor.
        bits: bit-widths.
    """

    model: StudyModel
    weight: str
    size: int
    schemes: tuple[Scheme, ...]
    bits: tuple[int, ...]

    @property
    def key(self) -> str:
        """What the result depends on, but for versions."""
        methods = ",".join(scheme.method for scheme in self.schemes)
        bits = ",".join(map(str, self.bits))
        content = digest_of(self.model.path, self.model.calibration.name)
        images = f"{PROBE_IMAGES} {CALIBRATION_IMAGES}"
        return f"single weight {content} {self.weight} {methods} {bits} {images}"

    @property
    def cost(self) -> float:
        """Time it takes, in the unit of `NetworkJob`."""
        runs = len(self.schemes) * len(self.bits)
        return runs * (0.15 * self.model.path.stat().st_size + 1e6)

    def run(self) -> dict[str, Any]:
        """Return `rows`, one for each scheme and bit-width.

        Each holds scheme, bits, the candidate predictors l1, l2, sqnr (dB), entropy (bits),
        weighted (squared error weighted with the activations' second moments, relative to the
        weight's own), kl (nats, on calibration images), and what is to be predicted: top1,
        agreement (shares, on held-out images) and lost (top1 of the float network less top1).
        """
        probe = open_probe(self.model)
        weight = probe.weights[self.weight]
        rows = []
        for scheme in self.schemes:
            for bits in self.bits:
                levels = scheme.levels_at(bits)
                if levels is not None:
                    codebook = fit(weight.reshape(-1), scheme.method, levels)
                    rows.append(
                        {"scheme": scheme.key, "bits": bits, **_measured(self, probe, codebook)}
                    )
        return {"rows": rows}


def _measured(job: LayerJob, probe: Probe, codebook: Codebook) -> dict[str, float]:
    weight = probe.weights[job.weight]
    changed = decoded(weight, codebook)
    error = distortion(weight, changed)
    counts = np.bincount(assign(weight.reshape(-1), codebook))
    moment = probe.second_moments.get(job.weight)
    on_calibration = count(
        probe.outputs(probe.calibration, {job.weight: changed}),
        None,
        probe.calibration_reference,
    )
    on_images = count(
        probe.outputs(probe.images, {job.weight: changed}), probe.targets, probe.reference
    )
    return {
        "l1": error.l1,
        "l2": error.l2,
        "sqnr": min(error.sqnr, 200.0),
        "entropy": index_entropy(counts),
        "weighted": _weighted(weight, changed, moment) if moment is not None else 0.0,
        "kl": on_calibration.kl / on_calibration.samples,
        "top1": on_images.top1 / on_images.samples,
        "agreement": on_images.agreeing / on_images.samples,
        "lost": float(
            (probe.reference.argmax(axis=1) == probe.targets).mean()
            - on_images.top1 / on_images.samples
        ),
    }


def _weighted(weight: NDArray[Any], changed: NDArray[Any], moment: NDArray[np.float64]) -> float:
    exact = weight.astype(np.float64)
    error = np.square(exact - changed) * moment
    signal = float((np.square(exact) * moment).sum())
    return float(error.sum()) / signal if signal > 0 else 0.0


@dataclass(frozen=True)
class TailsJob:
    """All weights of a network under QQ: which bins do the harm?

    Attributes:
        model: the network.
        bits: the bit-width.
        method: a codebook method of 2^bits levels.
    """

    model: StudyModel
    bits: int
    method: str

    @property
    def key(self) -> str:
        """What the result depends on, but for versions."""
        content = digest_of(self.model.path, self.model.calibration.name)
        return f"tails {content} {self.method} {self.bits} {PROBE_IMAGES} {CALIBRATION_IMAGES}"

    @property
    def cost(self) -> float:
        """Time it takes, in the unit of `NetworkJob`."""
        return 1.5 * self.model.path.stat().st_size + 6e6

    def run(self) -> dict[str, float]:
        """Return shares of the outermost bins, and outputs without them and with them alone.

        Returns:
            values, squared, weighted: the share that the lowest and the highest bin of each
            weight have of the values, of the squared error (each weight relative to its own
            mean square) and of that error weighted with the activations' second moments; kl
            (nats, on held-out images) and top1 with all bins quantized (`_all`), with the
            outermost bins left float (`_inner`) and with only them quantized (`_outer`).
        """
        probe = open_probe(self.model)
        sums = dict.fromkeys(("values", "outer_values", "squared", "outer_squared"), 0.0)
        sums |= dict.fromkeys(("weighted", "outer_weighted"), 0.0)
        changed: dict[str, dict[str, NDArray[np.float32]]] = {"all": {}, "inner": {}, "outer": {}}
        for name, weight in probe.weights.items():
            codebook = fit(weight.reshape(-1), self.method, 1 << self.bits)
            indices = assign(weight, codebook)
            full = codebook.levels.astype(weight.dtype)[indices]
            outermost = (indices == 0) | (indices == codebook.levels.size - 1)
            changed["all"][name] = full
            changed["inner"][name] = np.where(outermost, weight, full)
            changed["outer"][name] = np.where(outermost, full, weight)
            if name not in probe.second_moments:
                continue
            exact = weight.astype(np.float64)
            square = np.square(exact - full)
            sums["values"] += weight.size
            sums["outer_values"] += float(outermost.sum())
            for kind, factor in (("squared", np.ones(1)), ("weighted", probe.second_moments[name])):
                signal = float((np.square(exact) * factor).sum())
                error = square * factor / signal if signal > 0 else np.zeros_like(square)
                sums[kind] += float(error.sum())
                sums[f"outer_{kind}"] += float(error[outermost].sum())
        result = {
            kind: sums[f"outer_{kind}"] / sums[kind] if sums[kind] else 0.0
            for kind in ("values", "squared", "weighted")
        }
        for part, weights in changed.items():
            counts = count(probe.outputs(probe.images, weights), probe.targets, probe.reference)
            result[f"kl_{part}"] = counts.kl / counts.samples
            result[f"top1_{part}"] = counts.top1 / counts.samples
        return result


def layer_jobs(
    model: StudyModel, sizes: dict[str, int], schemes: tuple[Scheme, ...], bits: tuple[int, ...]
) -> list[LayerJob]:
    """Return a job for each weight of at least `LEAST_SIZE` entries; `sizes` by name."""
    assert max(bits) < FLOAT_BITS
    return [
        LayerJob(model, name, size, schemes, bits)
        for name, size in sizes.items()
        if size >= LEAST_SIZE
    ]

"""Sensitivity of a model's outputs to the quantization of each weight."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.allocation import LevelChoice
from qqonnx.calibration.session import extended_session
from qqonnx.codebooks import assign, fit
from qqonnx.errors import QqonnxError
from qqonnx.evaluation.divergence import output_divergence, tells_classes_apart
from qqonnx.inputs.dataset import evenly_spaced
from qqonnx.inputs.read import feed_samples
from qqonnx.model.session import run_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.calibration.statistics import WeightStatistics
    from qqonnx.model.select import Weight

LEVEL_COUNTS = (2, 3, 4, 5, 6, 8, 10, 11, 12, 16, 20, 22, 25, 32, 45, 64, 90, 128, 181, 256)
"""Numbers of levels to choose from: the largest for each number of bits that packing supports."""

SAMPLES = 48
"""Largest number of samples whose outputs are compared."""

_ERROR_SAMPLE = 20_000
"""Largest number of values from which the error of a weight is estimated."""


@dataclass(frozen=True)
class OutputLoss:
    """The difference of the outputs from those of the float model.

    Attributes:
        divergence: mean divergence of the outputs; see `output_divergence`.
        changed: share of samples with a different largest output; NaN without an output
            [samples, classes].
    """

    divergence: float
    changed: float


@contextmanager
def output_losses(
    model: ir.Model, weights: Sequence[Weight], inputs: CalibrationInputs
) -> Iterator[Callable[[Mapping[str, NDArray[Any]]], OutputLoss]]:
    """Provide a function from replaced weights, by name, to the loss of the outputs.

    The outputs are compared on the second half of the samples as `collect_moments` splits them, so
    the comparison uses no sample to which a weight was fitted.

    Args:
        model: the float model.
        weights: weights that can be replaced: initializers of the main graph.
        inputs: calibration inputs.

    Raises:
        QqonnxError: no output of the model is a tensor, or the model does not load or run.
    """
    batches = list(inputs.batches())
    batches = batches[1::2] or batches
    max_batches = max(SAMPLES // inputs.batch_size, 1)
    if max_batches < len(batches):
        batches = [batches[index] for index in evenly_spaced(len(batches), max_batches)]
    with extended_session(model, inputs=[weight.value for weight in weights]) as session:
        # Sequences and optional values are not compared.
        names = [out.name for out in session.get_outputs() if out.type.startswith("tensor(")]
        if not names:
            raise QqonnxError("calibration: no output of the model is a tensor")

        def run(feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
            return run_session(session, feed, names, name="calibration: the model")

        references = [run(batch) for batch in batches]

        def loss(replaced: Mapping[str, NDArray[Any]]) -> OutputLoss:
            total = changed = count = 0.0
            for batch, reference in zip(batches, references, strict=True):
                outputs = run({**batch, **replaced})
                size = feed_samples(batch)
                total += size * sum(map(output_divergence, reference, outputs))
                shares = list(map(_share_changed, reference, outputs))
                known = [share for share in shares if not np.isnan(share)]
                changed += size * max(known, default=float("nan"))
                count += size
            return OutputLoss(total / count, changed / count)

        yield loss


def weight_errors(statistics: WeightStatistics) -> dict[LevelChoice, float]:
    """Estimate the error of a weight for every choice, weighted by the inputs' second moments."""
    matrix = statistics.matrix
    importance = np.ones((len(matrix), matrix.shape[2]), np.float32)
    if statistics.moments is not None:
        importance = np.einsum("gii->gi", statistics.moments.all[0]) + np.float32(1e-20)
    errors = {}
    for scaled in (True, False) if statistics.can_scale else (False,):
        scales = np.ones(matrix.shape[:2], np.float32)
        if scaled:
            scales = np.maximum(np.sqrt(np.square(matrix).mean(axis=2)), np.float32(1e-12))
        shares = (matrix / scales[..., None]).reshape(-1)
        weight = np.square(scales)[..., None] * importance[:, None, :]
        weight = np.broadcast_to(weight, matrix.shape).reshape(-1)
        factor = 1.0
        if shares.size > _ERROR_SAMPLE:
            sample = np.random.default_rng(0).choice(shares.size, _ERROR_SAMPLE, replace=False)
            factor = shares.size / _ERROR_SAMPLE
            shares, weight = shares[sample], weight[sample]
        for levels in LEVEL_COUNTS:
            codebook = fit(shares, "kmeans", levels, importance=weight)
            decoded = codebook.levels[assign(shares, codebook)]
            squared = np.square(shares - decoded) * weight
            errors[LevelChoice(levels, scaled)] = factor * float(squared.sum())
    return errors


def _share_changed(reference: NDArray[Any], output: NDArray[Any]) -> float:
    if not tells_classes_apart(reference) or reference.shape != output.shape:
        return float("nan")
    return float((reference.argmax(axis=1) != output.argmax(axis=1)).mean())

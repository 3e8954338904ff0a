"""What the outputs of a model lose when one of its weights is quantized."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.calibration.moments import run, session_with
from qqonnx.errors import QqonnxError
from qqonnx.evaluation.metrics import divergence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.model.select import Weight

    Replaced = Mapping[str, NDArray[Any]]

PROBED = 48
"""Samples whose outputs are compared."""


@contextmanager
def probe(
    model: ir.Model, weights: Sequence[Weight], inputs: CalibrationInputs
) -> Iterator[Callable[[Replaced], tuple[float, float]]]:
    """Give a function that compares the model's outputs with those for other weights.

    The function takes weights by name and returns the mean divergence of the outputs from the
    original ones (see `difference`) and the share of samples whose greatest output is another
    (NaN if no output tells classes apart).
    It looks at the batches that `statistics.collect` puts into the second half, so that weights
    fitted to the first are judged by samples they never saw.

    Args:
        model: the model.
        weights: initializers of its graph; those of functions and subgraphs cannot be replaced.
        inputs: calibration inputs.
    """
    batches = list(inputs.batches())
    batches = batches[1::2] or batches
    most = max(PROBED // inputs.batch_size, 1)
    if most < len(batches):
        spread = np.linspace(0, len(batches) - 1, most).round().astype(int)
        batches = [batches[index] for index in spread]
    replaceable = [weight.value for weight in weights]
    with session_with(model, inputs=replaceable) as session:
        # Sequences and optional values are not compared.
        names = [out.name for out in session.get_outputs() if out.type.startswith("tensor(")]
        if not names:
            raise QqonnxError("calibration: the model has no output that is a tensor")
        expected = [run(session, names, batch) for batch in batches]

        def compare(replaced: Replaced) -> tuple[float, float]:
            total = changed = count = 0.0
            for batch, reference in zip(batches, expected, strict=True):
                found = run(session, names, {**batch, **replaced})
                size = len(next(iter(batch.values())))
                total += size * sum(map(difference, reference, found))
                changed += size * max(map(_changed, reference, found), key=_or_less)
                count += size
            return total / count, changed / count

        yield compare


def difference(reference: NDArray[Any], outputs: NDArray[Any]) -> float:
    """Return how far outputs are from the reference.

    Of outputs [n, classes] the mean KL(reference || outputs) in nats; of others half the mean
    squared difference in units of the reference's variance, which is the divergence of normal
    distributions of that variance. 0 for outputs that are not floats.
    """
    if reference.dtype.kind != "f" or reference.shape != outputs.shape or not reference.size:
        return 0.0
    if _is_classes(reference):
        # Rounding can take the sum of a vanishing divergence below zero.
        return max(float(divergence(reference, outputs).mean()), 0.0)
    expected, found = reference.astype(np.float64), outputs.astype(np.float64)
    variance = float(expected.var())
    squared = float(np.square(found - expected).mean())
    return squared / (2 * variance) if variance > 0 else squared


def _is_classes(output: NDArray[Any]) -> bool:
    return output.dtype.kind == "f" and output.ndim == 2 and output.shape[1] > 1


def _or_less(share: float) -> float:
    return -1.0 if np.isnan(share) else share


def _changed(reference: NDArray[Any], outputs: NDArray[Any]) -> float:
    if not _is_classes(reference) or reference.shape != outputs.shape:
        return float("nan")
    return float((reference.argmax(axis=1) != outputs.argmax(axis=1)).mean())

"""Calibration inputs: data of the user, or synthetic inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.calibration.synthetic.feeds import synthetic_feeds
from qqonnx.inputs.dataset import evenly_spaced
from qqonnx.inputs.read import Inputs, feed_samples, model_inputs, read_inputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from qqonnx.config import CalibrationData
    from qqonnx.inputs.feeds import Feed

SYNTHETIC_WEIGHT = 1 / 30
"""Number of real samples that a synthetic one is worth: the best of 1/3, 1/10, 1/30 and 1/100 on
EfficientNet-Lite0."""

MAX_SYNTHETIC_SAMPLES = 64

HELD_OUT = 32
"""Largest number of samples that are held out."""

SYNTHETIC_HELD_OUT = 16

_FEWEST_RUNS = 4
"""From this many runs on, some are held out."""


@dataclass(frozen=True)
class CalibrationInputs(Inputs):
    """Inputs of the runs of a calibration.

    Attributes:
        sample_weight: number of real samples that a sample is worth: 1, or less if synthetic.
        held_out: runs that no weight is fitted to, for the judgement of the result. They are not
            among `feeds`, except if there are too few to spare some.
    """

    sample_weight: float = 1.0
    held_out: tuple[Feed, ...] = ()


NO_INPUTS = CalibrationInputs((), 0, 1, "the weights alone", sample_weight=0.0)
"""For models that run on no inputs that can be made."""


def calibration_inputs(
    model: ir.Model, data: CalibrationData, max_samples: int, *, hold_out: bool = True
) -> CalibrationInputs:
    """Return samples for the calibration of a model.

    Args:
        model: the model.
        data: inputs as `read_inputs` takes them, or None for synthetic inputs.
        max_samples: largest number of samples, or of runs.
        hold_out: hold out some samples besides.

    Raises:
        QqonnxError: the data cannot be read, or do not fit the model's inputs.
    """
    if data is None:
        count = min(max_samples, MAX_SYNTHETIC_SAMPLES) + SYNTHETIC_HELD_OUT * hold_out
        return _with_held_out(_synthetic(model, count), SYNTHETIC_HELD_OUT * hold_out)
    read = read_inputs(model, data, max_samples + HELD_OUT * hold_out, shuffled=True)
    return _with_held_out(CalibrationInputs(**vars(read)), HELD_OUT * hold_out)


def _with_held_out(inputs: CalibrationInputs, samples: int) -> CalibrationInputs:
    """Hold out `samples` samples, but at most an eighth of the runs unless they are synthetic."""
    runs = len(inputs.feeds)
    if runs < _FEWEST_RUNS or not samples:
        return replace(inputs, held_out=inputs.feeds[1::2] or inputs.feeds)
    wanted = max(samples // inputs.batch_size, 1)
    if inputs.sample_weight == 1:
        wanted = min(wanted, -(-runs // 8))
    chosen = evenly_spaced(runs, wanted)
    fitted = tuple(feed for run, feed in enumerate(inputs.feeds) if run not in chosen)
    count = sum(map(feed_samples, fitted))
    others = tuple(other for run, other in enumerate(inputs.others) if run not in chosen)
    held_out = tuple(inputs.feeds[run] for run in chosen)
    if inputs.sample_weight < 1:
        random = np.random.default_rng(1)
        held_out = tuple(_perturbed(feed, random) for feed in held_out)
    return replace(inputs, feeds=fitted, count=count, others=others, held_out=held_out)


def _perturbed(feed: Feed, random: np.random.Generator) -> Feed:
    """Lower the contrast of synthetic floats: the result must hold on other inputs as well."""
    return {
        # A product of arrays without axes is no array.
        name: np.asarray(array * array.dtype.type(np.exp2(random.uniform(-1, 0))))
        if array.dtype.kind == "f"
        else array
        for name, array in feed.items()
    }


def _synthetic(model: ir.Model, count: int) -> CalibrationInputs:
    feeds, samples = synthetic_feeds(model, model_inputs(model), count)
    return CalibrationInputs(
        tuple(feeds),
        len(feeds) * samples,
        samples,
        "synthetic inputs (data-free)",
        sample_weight=SYNTHETIC_WEIGHT,
    )

"""Quantized weights as functions of the numbers that are tuned, and the tuning by gradients.

Imports PyTorch: import this inside the functions that need it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qqonnx.encoding.encode import broadcastable
from qqonnx.finetune.losses import augmented

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.finetune.losses import Teacher
    from qqonnx.finetune.tunable import TunableWeight

WARM_UP = 8
"""Steps in which the learning rate rises to its full height."""


@dataclass(frozen=True)
class TunedWeight:
    """One quantized weight; what is tuned starts at zero and counts in units of its own size.

    Attributes:
        given: the weight as it was given.
        indices: uint8, of the weight's shape.
        levels: float32 [k], as given.
        unit: root mean square of the levels.
        scales: float32 [1, ..., channels, ..., 1], as given; one 1 without scales.
        steps: tuned, float32 [k]: the levels are levels + unit * steps.
        log_scales: tuned, of the scales' shape: the scales are scales * exp(log_scales).
    """

    given: TunableWeight
    indices: Tensor
    levels: Tensor
    unit: float
    scales: Tensor
    steps: Tensor
    log_scales: Tensor

    @property
    def name(self) -> str:
        """Name of the weight's initializer."""
        return self.given.name

    def tuned(self) -> list[Tensor]:
        """Return what is tuned."""
        return [self.steps] if self.given.scales is None else [self.steps, self.log_scales]

    def new_levels(self) -> Tensor:
        """Return the levels [k]."""
        return self.levels + self.unit * self.steps

    def new_scales(self) -> Tensor:
        """Return the scales [1, ..., channels, ..., 1]."""
        return self.scales * torch.exp(self.log_scales)

    def decoded(self) -> Tensor:
        """Return the weight."""
        chosen = self.new_levels().index_select(0, self.indices.reshape(-1).int())
        return chosen.reshape(self.indices.shape) * self.new_scales()

    def pull(self, gradient: Tensor) -> None:
        """Set the gradients of what is tuned from that of the weight.

        Sums are in float64 and in a fixed order, neither of which indexing backwards offers.
        """
        shares = gradient * self.new_scales()
        sums = torch.bincount(
            self.indices.reshape(-1), shares.reshape(-1).double(), len(self.levels)
        )
        self.steps.grad = self.unit * sums.float()
        if self.given.scales is None:
            return
        axes = [axis for axis, size in enumerate(self.scales.shape) if size == 1]
        self.log_scales.grad = (gradient * self.decoded()).sum(axes, keepdim=True)


@dataclass(frozen=True)
class TunedBias:
    """One bias.

    Attributes:
        name: of its initializer.
        values: as given.
        unit: standard deviation of the values.
        steps: tuned, of the values' shape: the bias is values + unit * steps.
    """

    name: str
    values: Tensor
    unit: float
    steps: Tensor

    def decoded(self) -> Tensor:
        """Return the bias."""
        return self.values + self.unit * self.steps

    def pull(self, gradient: Tensor) -> None:
        """Set the gradient of what is tuned from that of the bias."""
        self.steps.grad = self.unit * gradient


@dataclass(frozen=True)
class Student:
    """All that is tuned."""

    weights: tuple[TunedWeight, ...]
    biases: tuple[TunedBias, ...]

    @property
    def parts(self) -> tuple[TunedWeight | TunedBias, ...]:
        """All of it."""
        return (*self.weights, *self.biases)

    def constants(self) -> dict[str, Tensor]:
        """Return the weights and biases by name."""
        return {part.name: part.decoded() for part in self.parts}


def student_of(
    weights: Sequence[TunableWeight], biases: Mapping[str, NDArray[np.float32]]
) -> Student:
    """Return weights and biases, ready to be tuned."""
    return Student(
        tuple(_tuned_weight(weight) for weight in weights),
        tuple(_tuned_bias(name, values) for name, values in biases.items()),
    )


def results(student: Student) -> tuple[list[TunableWeight], dict[str, NDArray[np.float32]]]:
    """Return the tuned weights and biases; scales and biases as float16 values."""
    weights = []
    for weight in student.weights:
        given = weight.given
        levels = weight.new_levels().numpy()
        scales = given.scales
        if given.scales is not None:
            scales = _rounded(weight.new_scales().numpy().reshape(-1), given.scales)
            # A scale that float16 cannot tell from zero would erase its channel.
            scales = np.where(scales == 0, given.scales, scales).astype(np.float32)
        weights.append(replace(given, levels=levels, scales=scales))
    biases = {
        bias.name: _rounded(bias.decoded().numpy(), bias.values.numpy()) for bias in student.biases
    }
    return weights, biases


def tune(
    student: Student,
    teacher: Teacher,
    chosen: NDArray[np.intp],
    rng: np.random.Generator,
    *,
    images: bool,
    epochs: int,
    learning_rate: float,
    progress: Callable[[int, int], None],
) -> None:
    """Tune the student in place with Adam (Kingma and Ba, ICLR 2015) on the chosen runs.

    The learning rate rises over `WARM_UP` steps and falls to zero as a cosine.
    """
    runs = teacher.runs
    tuned = [tensor for weight in student.weights for tensor in weight.tuned()]
    tuned += [bias.steps for bias in student.biases]
    optimizer = torch.optim.Adam(tuned, lr=learning_rate, betas=(0.9, 0.99))
    per_epoch = math.ceil(len(chosen) / runs.step)
    total = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / total)) / 2,
    )
    for _ in range(epochs):
        shuffled = rng.permutation(chosen)
        for start in range(0, len(shuffled), runs.step):
            batch = shuffled[start : start + runs.step]
            constants = {
                name: value.requires_grad_() for name, value in student.constants().items()
            }
            for group in runs.groups(batch):
                feed = runs.feed(group)
                if images:
                    feed = augmented(feed, rng)
                expected = teacher.answers(feed) if images else teacher.expected(group, feed)
                found = teacher.graph(feed, constants)
                share = len(group) / len(batch)
                torch.autograd.backward(share * teacher.difference(found, expected))
            for part in student.parts:
                gradient = constants[part.name].grad
                # None where no output depends on it.
                if gradient is not None:
                    part.pull(gradient)
            _step(optimizer, student)
            schedule.step()
            progress(len(batch), epochs * len(chosen))


def _step(optimizer: torch.optim.Optimizer, student: Student) -> None:
    """Take a step; codebooks that it would put out of order stay as they are."""
    previous = [weight.steps.clone() for weight in student.weights]
    optimizer.step()
    for weight, steps in zip(student.weights, previous, strict=True):
        if not bool((weight.new_levels().diff() > 0).all()):
            weight.steps.copy_(steps)


def _tuned_weight(weight: TunableWeight) -> TunedWeight:
    scales = np.ones(1, np.float32)
    if weight.scales is not None:
        assert weight.channel_axis is not None
        scales = broadcastable(weight.scales, weight.channel_axis, len(weight.shape))
    return TunedWeight(
        given=weight,
        indices=torch.from_numpy(np.array(weight.indices, np.uint8, order="C")),
        levels=torch.from_numpy(np.array(weight.levels, np.float32)),
        unit=float(np.sqrt(np.square(weight.levels, dtype=np.float64).mean())),
        scales=torch.from_numpy(np.array(scales, np.float32)),
        steps=torch.zeros(weight.levels.shape),
        log_scales=torch.zeros(scales.shape),
    )


def _tuned_bias(name: str, values: NDArray[np.float32]) -> TunedBias:
    deviation, size = float(values.std()), float(np.abs(values).max(initial=0))
    # Equal values have no deviation, and zeros no size: a weighted sum of normalized values
    # that is to move at all moves by hundredths.
    unit = deviation or size or 0.01
    return TunedBias(name, torch.from_numpy(values.copy()), unit, torch.zeros(values.shape))


def _rounded(values: NDArray[Any], otherwise: NDArray[Any]) -> NDArray[np.float32]:
    """Round to float16 values; where that overflows, take the others."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float32)
    return np.where(np.isfinite(half), half, otherwise).astype(np.float32)

"""The student: quantized weights as functions of their parameters, and the training loop.

This module imports PyTorch; import it inside functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qqonnx.encoding.encode import broadcastable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.finetune.losses import Teacher
    from qqonnx.finetune.tunable import TunableWeight

WARM_UP = 8
"""Optimizer steps over which the learning rate rises to its maximum."""


@dataclass(frozen=True)
class StudentWeight:
    """A quantized weight with its parameters, which start at zero.

    Attributes:
        initial: the weight before training.
        indices: uint8, of the weight's shape.
        levels: float32 [k], before training.
        unit: root mean square of the levels.
        scales: float32 [1, ..., channels, ..., 1], before training; [1] without scales.
        offsets: parameters, float32 [k]; the levels become levels + unit * offsets.
        log_factors: parameters of the scales' shape; the scales become
            scales * exp(log_factors).
    """

    initial: TunableWeight
    indices: Tensor
    levels: Tensor
    unit: float
    scales: Tensor
    offsets: Tensor
    log_factors: Tensor

    @property
    def name(self) -> str:
        """Name of the weight's initializer."""
        return self.initial.name

    def parameters(self) -> list[Tensor]:
        """Return the parameters."""
        return [self.offsets] if self.initial.scales is None else [self.offsets, self.log_factors]

    def new_levels(self) -> Tensor:
        """Return the levels [k]."""
        return self.levels + self.unit * self.offsets

    def new_scales(self) -> Tensor:
        """Return the scales [1, ..., channels, ..., 1]."""
        return self.scales * torch.exp(self.log_factors)

    def decoded(self) -> Tensor:
        """Return the weight."""
        values = self.new_levels().index_select(0, self.indices.reshape(-1).int())
        return values.reshape(self.indices.shape) * self.new_scales()

    def backward(self, gradient: Tensor) -> None:
        """Set the gradients of the parameters from the gradient of the weight.

        PyTorch's backward pass of indexing sums in float32, and in no fixed order. This sums in
        float64, in a fixed order.
        """
        level_gradients = gradient * self.new_scales()
        sums = torch.bincount(
            self.indices.reshape(-1), level_gradients.reshape(-1).double(), len(self.levels)
        )
        self.offsets.grad = self.unit * sums.float()
        if self.initial.scales is None:
            return
        axes = [axis for axis, size in enumerate(self.scales.shape) if size == 1]
        self.log_factors.grad = (gradient * self.decoded()).sum(axes, keepdim=True)


@dataclass(frozen=True)
class StudentBias:
    """A bias with its parameters, which start at zero.

    Attributes:
        name: name of the bias's initializer.
        values: the bias before training, float32.
        unit: standard deviation of the values.
        offsets: parameters of the values' shape; the bias becomes values + unit * offsets.
    """

    name: str
    values: Tensor
    unit: float
    offsets: Tensor

    def parameters(self) -> list[Tensor]:
        """Return the parameters."""
        return [self.offsets]

    def decoded(self) -> Tensor:
        """Return the bias."""
        return self.values + self.unit * self.offsets

    def backward(self, gradient: Tensor) -> None:
        """Set the gradient of the parameters from the gradient of the bias."""
        self.offsets.grad = self.unit * gradient


@dataclass(frozen=True)
class Student:
    """The weights and biases that are trained."""

    weights: tuple[StudentWeight, ...]
    biases: tuple[StudentBias, ...]

    @property
    def tensors(self) -> tuple[StudentWeight | StudentBias, ...]:
        """Weights and biases."""
        return (*self.weights, *self.biases)

    def constants(self) -> dict[str, Tensor]:
        """Return the values of weights and biases by name."""
        return {tensor.name: tensor.decoded() for tensor in self.tensors}


def student_of(
    weights: Sequence[TunableWeight], biases: Mapping[str, NDArray[np.float32]]
) -> Student:
    """Return an untrained student."""
    return Student(
        tuple(map(_student_weight, weights)),
        tuple(_student_bias(name, values) for name, values in biases.items()),
    )


def trained_values(
    student: Student,
) -> tuple[list[TunableWeight], dict[str, NDArray[np.float32]]]:
    """Return the weights and biases of a student, scales and biases rounded to float16 values."""
    weights = []
    for weight in student.weights:
        scales = weight.initial.scales
        if scales is not None:
            rounded = _rounded(weight.new_scales().numpy().reshape(-1), scales)
            # A scale that becomes zero in float16 would erase its channel.
            scales = np.where(rounded == 0, scales, rounded).astype(np.float32)
        levels = weight.new_levels().numpy()
        weights.append(replace(weight.initial, levels=levels, scales=scales))
    biases = {
        bias.name: _rounded(bias.decoded().numpy(), bias.values.numpy()) for bias in student.biases
    }
    return weights, biases


def train(
    student: Student,
    teacher: Teacher,
    indices: NDArray[np.intp],
    rng: np.random.Generator,
    *,
    epochs: int,
    learning_rate: float,
    progress: Callable[[int, int], None],
) -> None:
    """Train the student in place with Adam (Kingma and Ba, ICLR 2015) on the runs `indices`.

    The learning rate rises over `WARM_UP` steps and falls to zero along a cosine.
    """
    runs = teacher.runs
    parameters = [parameter for tensor in student.tensors for parameter in tensor.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.99))
    total = epochs * math.ceil(len(indices) / runs.step_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / total)) / 2,
    )
    for _ in range(epochs):
        shuffled = rng.permutation(indices)
        for start in range(0, len(shuffled), runs.step_size):
            batch = shuffled[start : start + runs.step_size]
            constants = {
                name: value.requires_grad_() for name, value in student.constants().items()
            }
            for group in runs.groups(batch):
                feed = runs.feed(group)
                outputs = teacher.graph(feed, constants)
                loss = teacher.loss(outputs, teacher.targets(group, feed))
                torch.autograd.backward(len(group) / len(batch) * loss)
            for tensor in student.tensors:
                gradient = constants[tensor.name].grad
                # A tensor that no output depends on has no gradient.
                if gradient is not None:
                    tensor.backward(gradient)
            _step(optimizer, student)
            schedule.step()
            progress(len(batch), epochs * len(indices))


def _step(optimizer: torch.optim.Optimizer, student: Student) -> None:
    """Take an optimizer step, but not for codebooks whose levels would leave their order."""
    previous = [weight.offsets.clone() for weight in student.weights]
    optimizer.step()
    for weight, offsets in zip(student.weights, previous, strict=True):
        if not bool((weight.new_levels().diff() > 0).all()):
            weight.offsets.copy_(offsets)


def _student_weight(weight: TunableWeight) -> StudentWeight:
    scales = np.ones(1, np.float32)
    if weight.scales is not None:
        assert weight.channel_axis is not None
        scales = broadcastable(weight.scales, weight.channel_axis, len(weight.shape))
    return StudentWeight(
        initial=weight,
        indices=torch.from_numpy(np.array(weight.indices, np.uint8, order="C")),
        levels=torch.from_numpy(np.array(weight.levels, np.float32)),
        unit=float(np.sqrt(np.square(weight.levels, dtype=np.float64).mean())),
        scales=torch.from_numpy(np.array(scales, np.float32)),
        offsets=torch.zeros(weight.levels.shape),
        log_factors=torch.zeros(scales.shape),
    )


def _student_bias(name: str, values: NDArray[np.float32]) -> StudentBias:
    deviation, size = float(values.std()), float(np.abs(values).max(initial=0))
    # Equal values have no deviation, and zeros have no size. Biases usually add to sums of
    # normalized values, where useful changes are hundredths.
    unit = deviation or size or 0.01
    return StudentBias(name, torch.from_numpy(values.copy()), unit, torch.zeros(values.shape))


def _rounded(values: NDArray[Any], fallback: NDArray[Any]) -> NDArray[np.float32]:
    """Round to float16 values; use the fallback where that overflows."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float32)
    return np.where(np.isfinite(half), half, fallback).astype(np.float32)

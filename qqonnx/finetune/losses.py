"""The teacher: the float model, its outputs, and the loss of a student against them.

This module imports PyTorch; import it inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qqonnx.evaluation.classes import class_axis
from qqonnx.evaluation.divergence import MIN_VARIATION, channel_axis
from qqonnx.finetune.operators import tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.finetune.executor import TorchGraph

CACHED_BYTES = 256 * 2**20
"""The teacher's outputs are cached up to this size; beyond it they are computed when needed."""

GROUP_SIZE = 4
"""Samples per pass through the graph. A CPU gains nothing from more, and they take memory."""

Feed = dict[str, Tensor]


@dataclass(frozen=True)
class Runs:
    """Inputs of the model.

    Attributes:
        inputs: arrays by input name, for each run.
        joinable: whether a run is one sample, so that runs can be joined along the first axis.
        step_size: runs per optimizer step.
    """

    inputs: tuple[dict[str, NDArray[Any]], ...]
    joinable: bool
    step_size: int

    def groups(self, indices: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Split the indices of runs into groups that one pass through the graph computes."""
        size = min(self.step_size, GROUP_SIZE) if self.joinable else 1
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    def feed(self, group: NDArray[np.intp]) -> Feed:
        """Return the joined inputs of a group of runs."""
        runs = [self.inputs[index] for index in group]
        joined = {
            name: np.concatenate([run[name] for run in runs]) if len(runs) > 1 else array
            for name, array in runs[0].items()
        }
        return {name: _channels_last(tensor_of(array)) for name, array in joined.items()}


@dataclass(frozen=True)
class Output:
    """A float output of the model.

    Attributes:
        index: its position among the outputs.
        axis: axis of the classes, see `qqonnx.evaluation.classes.class_axis`; None without classes.
        are_probabilities: whether the scores of the classes are probabilities, and not logits.
        variance: variance of the teacher's values, of each channel if they have channels; see
            `qqonnx.evaluation.divergence.channel_axis`. It broadcasts to the output.
    """

    index: int
    axis: int | None
    are_probabilities: bool
    variance: Tensor


@dataclass(frozen=True)
class Teacher:
    """The float model with its inputs and outputs.

    Attributes:
        graph: the float model.
        runs: its inputs.
        outputs: the outputs that the loss compares.
        cached: all its outputs for each run; None if they are too large to be cached.
    """

    graph: TorchGraph
    runs: Runs
    outputs: tuple[Output, ...]
    cached: tuple[list[Tensor], ...] | None

    def compute_targets(self, feed: Feed) -> list[Tensor]:
        """Compute the teacher's outputs."""
        with torch.no_grad():
            return self.graph(feed)

    def targets(self, group: NDArray[np.intp], feed: Feed) -> list[Tensor]:
        """Return the teacher's outputs for a group of runs, from the cache if they are there."""
        if self.cached is None:
            return self.compute_targets(feed)
        rows = [self.cached[index] for index in group]
        return [torch.cat(parts) for parts in zip(*rows, strict=True)] if len(rows) > 1 else rows[0]

    def loss(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return the loss of a student's outputs: a scalar with gradients."""
        losses = [
            _output_loss(output, outputs[output.index], targets[output.index])
            for output in self.outputs
        ]
        return torch.stack(losses).sum()

    def mean_loss(self, indices: NDArray[np.intp], constants: Mapping[str, Tensor]) -> float:
        """Return the mean loss over the given runs with other initializers."""
        total = 0.0
        with torch.no_grad():
            for group in self.runs.groups(indices):
                feed = self.runs.feed(group)
                outputs = self.graph(feed, constants)
                total += len(group) * float(self.loss(outputs, self.targets(group, feed)))
        # Rounding can make a tiny divergence negative.
        return max(total, 0.0) / len(indices)


def run_teacher(graph: TorchGraph, runs: Runs) -> Teacher | None:
    """Run the float model on all inputs.

    Returns:
        The teacher; None if runs are joinable but an output does not have one row per sample.

    Raises:
        QqonnxError: a node cannot be computed.
    """
    cached: list[list[Tensor]] = []
    size = 0
    # Number, sum and sum of squares of each float output's values, by channel.
    sums: dict[int, Tensor] = {}
    reduced: dict[int, list[int]] = {}
    class_axes: dict[int, int | None] = {}
    are_probabilities: dict[int, bool] = {}
    for group in runs.groups(np.arange(len(runs.inputs))):
        with torch.no_grad():
            outputs = graph(runs.feed(group))
        if runs.joinable and any(out.ndim < 1 or len(out) != len(group) for out in outputs):
            return None
        for index, out in enumerate(outputs):
            if out.is_floating_point():
                wide = out.double()
                if index not in reduced:
                    axis = channel_axis(wide.numpy())
                    class_axes[index] = class_axis(wide.numpy(), graph.outputs[index])
                    reduced[index] = [other for other in range(out.ndim) if other != axis]
                powers = (torch.ones_like(wide), wide, wide.square())
                terms = torch.stack([power.sum(reduced[index], keepdim=True) for power in powers])
                sums[index] = sums[index] + terms if index in sums else terms
                known = are_probabilities.get(index, True)
                are_probabilities[index] = known and _sum_to_one(out, class_axes[index])
        size += sum(out.nbytes for out in outputs)
        if size <= CACHED_BYTES:
            rows = [torch.split(out, 1) if runs.joinable else (out,) for out in outputs]
            cached.extend(list(parts) for parts in zip(*rows, strict=True))
    compared = []
    for index, (count, total, squares) in sums.items():
        variance = squares / count - (total / count).square()
        scale = torch.maximum(variance, MIN_VARIATION * squares / count)
        scale = torch.where(scale > 0, scale, float(scale.mean()) or 1.0)
        compared.append(Output(index, class_axes[index], are_probabilities[index], scale.float()))
    return Teacher(graph, runs, tuple(compared), tuple(cached) if size <= CACHED_BYTES else None)


def _channels_last(x: Tensor) -> Tensor:
    # This layout makes convolutions more than twice as fast on a CPU.
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _sum_to_one(out: Tensor, axis: int | None) -> bool:
    if axis is None or bool((out < 0).any()):
        return False
    return bool(((out.sum(axis) - 1).abs() < 1e-3).all())


def _output_loss(output: Output, student: Tensor, teacher: Tensor) -> Tensor:
    if output.axis is None:
        return ((student - teacher).square() / output.variance).mean()
    rows = [out.movedim(output.axis, -1).flatten(0, -2) for out in (student, teacher)]
    if output.are_probabilities:
        log_q, log_p = (out.clamp_min(1e-12).log() for out in rows)
    else:
        log_q, log_p = (functional.log_softmax(out, 1) for out in rows)
    return functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")

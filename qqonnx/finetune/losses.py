"""How far a network's outputs are from the float model's, batch by batch.

Imports PyTorch: import this inside the functions that need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qqonnx.finetune.operators import tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.finetune.executor import TorchGraph

KEPT_BYTES = 256 * 2**20
"""Outputs of the float model are kept up to this size; larger ones are computed when needed."""

AT_ONCE = 4
"""Samples that the graph computes at once: a CPU gains nothing from more, and they take memory."""

Feed = dict[str, Tensor]


@dataclass(frozen=True)
class Runs:
    """Inputs, and how many of them make a step.

    Attributes:
        inputs: inputs by name of each run.
        joined: runs are samples, of which any number can be joined along the first axis.
        step: runs to a step.
    """

    inputs: tuple[dict[str, NDArray[Any]], ...]
    joined: bool
    step: int

    def groups(self, chosen: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Return the indices of the runs that the graph computes at once."""
        size = min(self.step, AT_ONCE) if self.joined else 1
        return [chosen[start : start + size] for start in range(0, len(chosen), size)]

    def feed(self, group: NDArray[np.intp]) -> Feed:
        """Return the inputs of a group of runs, images with the channels last in memory.

        That layout makes convolutions more than twice as fast on a CPU.
        """
        runs = [self.inputs[index] for index in group]
        if len(runs) == 1:
            return {name: _laid_out(tensor_of(array)) for name, array in runs[0].items()}
        joined = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
        return {name: _laid_out(tensor_of(array)) for name, array in joined.items()}


@dataclass(frozen=True)
class Output:
    """One of the model's float outputs.

    Attributes:
        index: which one it is.
        kind: "logits" or "probabilities" of classes [n, classes], otherwise "values".
        variance: of the float model's values.
    """

    index: int
    kind: str
    variance: float


@dataclass(frozen=True)
class Teacher:
    """The float model and what it says.

    Attributes:
        graph: the float model.
        runs: its inputs.
        outputs: the outputs that are compared.
        targets: its outputs for each run; None if they are too large to be kept.
    """

    graph: TorchGraph
    runs: Runs
    outputs: tuple[Output, ...]
    targets: tuple[list[Tensor], ...] | None

    def answers(self, feed: Feed) -> list[Tensor]:
        """Compute the float model's outputs."""
        with torch.no_grad():
            return self.graph(feed)

    def expected(self, group: NDArray[np.intp], feed: Feed) -> list[Tensor]:
        """Return the float model's outputs for a group of runs."""
        if self.targets is None:
            return self.answers(feed)
        kept = [self.targets[index] for index in group]
        return [torch.cat(parts) for parts in zip(*kept, strict=True)] if len(kept) > 1 else kept[0]

    def difference(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        """Return how far outputs are from the expected ones: a scalar with gradients."""
        return torch.stack([
            _difference(output, found[output.index], expected[output.index])
            for output in self.outputs
        ]).sum()  # fmt: skip

    def loss(self, chosen: NDArray[np.intp], constants: Mapping[str, Tensor]) -> float:
        """Return the mean difference on the chosen runs with these initializers."""
        total = 0.0
        with torch.no_grad():
            for group in self.runs.groups(chosen):
                feed = self.runs.feed(group)
                found = self.graph(feed, constants)
                total += len(group) * float(self.difference(found, self.expected(group, feed)))
        return total / len(chosen)


def teach(graph: TorchGraph, runs: Runs) -> Teacher | None:
    """Run the float model on all inputs; None if its outputs are not one row for each sample.

    Raises:
        QqonnxError: a node cannot be computed.
    """
    targets: list[list[Tensor]] = []
    size = 0
    sums: dict[int, NDArray[np.float64]] = {}
    shares: dict[int, bool] = {}
    for group in runs.groups(np.arange(len(runs.inputs))):
        with torch.no_grad():
            outputs = graph(runs.feed(group))
        if runs.joined and any(out.ndim < 1 or len(out) != len(group) for out in outputs):
            return None
        for index, out in enumerate(outputs):
            if out.is_floating_point():
                wide = out.double()
                found = [out.numel(), float(wide.sum()), float(wide.square().sum())]
                sums[index] = sums.get(index, np.zeros(3)) + np.array(found)
                shares[index] = shares.get(index, True) and _are_probabilities(out)
        size += sum(out.nbytes for out in outputs)
        if size <= KEPT_BYTES:
            rows = [torch.split(out, 1) if runs.joined else (out,) for out in outputs]
            targets.extend(list(parts) for parts in zip(*rows, strict=True))
    compared = tuple(
        _output(index, outputs[index], shares[index], moments) for index, moments in sums.items()
    )
    return Teacher(graph, runs, compared, tuple(targets) if size <= KEPT_BYTES else None)


def augmented(feed: Feed, rng: np.random.Generator) -> Feed:
    """Flip and crop a batch of images [n, 3, height, width] at random, all in the same way."""
    flip, crop = rng.random() < 0.5, rng.random() < 0.75
    side, top, left = rng.uniform(0.67, 0.96), rng.random(), rng.random()

    def changed(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            return x
        height, width = x.shape[2:]
        x = x.flip(3) if flip else x
        if crop:
            h, w = max(1, round(side * height)), max(1, round(side * width))
            y, z = int(top * (height - h + 1)), int(left * (width - w + 1))
            x = functional.interpolate(
                x[:, :, y : y + h, z : z + w], (height, width), mode="bilinear", antialias=True
            )
        return _laid_out(x)

    return {name: changed(x) for name, x in feed.items()}


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _output(index: int, out: Tensor, shares: bool, moments: NDArray[np.float64]) -> Output:
    count, total, power = moments.tolist()
    kind = "values"
    if out.ndim == 2 and out.shape[1] > 1:
        kind = "probabilities" if shares else "logits"
    variance = power / count - (total / count) ** 2
    return Output(index, kind, variance if variance > 0 else 1.0)


def _are_probabilities(out: Tensor) -> bool:
    if out.ndim != 2 or bool((out < 0).any()):
        return False
    return bool(((out.sum(1) - 1).abs() < 1e-3).all())


def _difference(output: Output, found: Tensor, expected: Tensor) -> Tensor:
    if output.kind == "values":
        return functional.mse_loss(found, expected) / output.variance
    if output.kind == "logits":
        log_q, log_p = (functional.log_softmax(out, 1) for out in (found, expected))
    else:
        log_q, log_p = (out.clamp_min(1e-12).log() for out in (found, expected))
    return functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")

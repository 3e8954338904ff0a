"""Tune what is stored beside the indices until the network's outputs are the float model's.

Every weight keeps its indices. Levels, per-channel scales and biases of all layers are tuned
together by gradients of the difference between the outputs, that is, by distillation from the
float model: layers learn to undo each other's errors, which layer-by-layer error feedback cannot
see. BRECQ (Li et al., ICLR 2021, section 3.2) does so block by block, for lack of data; so few
numbers are tuned here that the whole network can be taken at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from qqonnx.errors import QqonnxError
from qqonnx.finetune.executor import TorchGraph, compile_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from qqonnx.finetune.tunable import TunableWeight


@dataclass(frozen=True)
class FinetuneResult:
    """Result of fine-tuning.

    Attributes:
        weights: as given, with new levels and scales; scales are float16 values.
        biases: float32 by name; float16 values. Those of the model if nothing was gained.
        loss_before: difference to the float model's outputs before, on inputs held out from
            tuning: mean KL divergence in nats for [n, classes] outputs, otherwise squared error
            relative to the variance of the float output; summed over outputs.
        loss_after: the same of what is returned, never above `loss_before`.
    """

    weights: list[TunableWeight]
    biases: dict[str, NDArray[np.float32]]
    loss_before: float
    loss_after: float


def finetune(
    model: ir.Model | onnx.ModelProto,
    weights: Sequence[TunableWeight],
    biases: Sequence[str],
    inputs: Sequence[Mapping[str, NDArray[Any]]],
    *,
    images: bool = False,
    epochs: int = 5,
    learning_rate: float = 5e-4,
    batch_size: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> FinetuneResult:
    """Tune levels, scales and biases of all layers; deterministic for a number of threads.

    A tenth of the inputs is held out. What was given comes back if tuning makes it no better
    there.

    Args:
        model: the float model; opset 13 or later, initializers in memory or readable.
        weights: what stands for its initializers of the same names.
        biases: names of initializers that are tuned as they are.
        inputs: inputs of one run each. Samples along the first axis are taken apart and shuffled
            if the model's first dimension is symbolic, otherwise runs stay as they are.
        images: inputs [n, 3, height, width] may be flipped and cropped at random.
        epochs: times that every input is seen.
        learning_rate: step relative to the scale, the codebook's root mean square and the
            bias's standard deviation.
        batch_size: samples to a step.
        seed: of the order of inputs and of the crops.
        progress: called with the samples (or runs) of each step and those of all epochs.

    Raises:
        QqonnxError: PyTorch is not installed, an operator is not supported, a weight is not in
            the model, or there are no inputs.
    """
    if not inputs:
        raise QqonnxError("finetune: there are no inputs")
    graph = compile_graph(model)
    # These import PyTorch, which `compile_graph` has found.
    from qqonnx.finetune.loop import results, student_of, tune
    from qqonnx.finetune.losses import Runs, teach

    _check(graph, weights, biases)
    if isinstance(model, onnx.ModelProto):
        model = ir.from_proto(model)
    samples = _samples(model, inputs)
    teacher = None
    if samples is not None:
        teacher = teach(graph, Runs(samples, True, batch_size))
    if teacher is None:
        runs = tuple(dict(run) for run in inputs)
        length = max((len(array) for array in runs[0].values() if array.ndim), default=1)
        teacher = teach(graph, Runs(runs, False, max(1, batch_size // max(1, length))))
    assert teacher is not None
    if not teacher.outputs:
        raise QqonnxError("finetune: the model has no output of floats")

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(teacher.runs.inputs))
    count = max(1, len(order) // 10)
    held_out, rest = (order[:count], order[count:]) if len(order) > 1 else (order, order)
    old_biases = {name: graph.constants[name].numpy() for name in biases}
    student = student_of(weights, old_biases)
    before = teacher.loss(held_out, student.constants())
    tune(
        student,
        teacher,
        rest,
        rng,
        images=images,
        epochs=epochs,
        learning_rate=learning_rate,
        progress=progress,
    )
    new_weights, new_biases = results(student)
    after = teacher.loss(held_out, student_of(new_weights, new_biases).constants())
    if not after < before:
        return FinetuneResult(list(weights), old_biases, before, before)
    return FinetuneResult(new_weights, new_biases, before, after)


def _samples(
    model: ir.Model, inputs: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[dict[str, NDArray[Any]], ...] | None:
    """Take runs apart into samples [1, ...]; None if the model or the inputs do not allow it."""
    for value in model.graph.inputs:
        first = value.shape[0] if value.shape is not None and len(value.shape) else 1
        if value.name not in model.graph.initializers and isinstance(first, int):
            return None
    kinds = {
        tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(run.items()))
        for run in inputs
    }
    lengths = [{array.shape[:1] for array in run.values()} for run in inputs]
    if len(kinds) > 1 or any(len(sizes) != 1 or () in sizes for sizes in lengths):
        return None
    return tuple(
        {name: array[index : index + 1] for name, array in run.items()}
        for run, ((length,),) in zip(inputs, lengths, strict=True)
        for index in range(length)
    )


def _check(graph: TorchGraph, weights: Sequence[TunableWeight], biases: Sequence[str]) -> None:
    for weight in weights:
        if weight.name not in graph.constants:
            raise QqonnxError(f"finetune: weight {weight.name!r} is not in the model")
        if tuple(graph.constants[weight.name].shape) != weight.shape:
            raise QqonnxError(f"finetune: weight {weight.name!r} has another shape")
    for name in biases:
        if name not in graph.constants:
            raise QqonnxError(f"finetune: bias {name!r} is not in the model")

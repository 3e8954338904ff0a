"""Fine-tune levels, scales and biases so that a quantized model's outputs match the float model's.

This is distillation: the float model is the teacher, the quantized model is the student. Indices
stay fixed. Levels, per-channel scales and biases of all layers are trained together, so layers
learn to compensate each other's errors. Error feedback (GPTQ), which goes layer by layer, cannot do
this. BRECQ (Li et al., ICLR 2021, section 3.2) trains block by block, because it has little data.
Here there are so few parameters that the whole network can be trained at once.
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
        weights: the weights with new levels and scales; scales are float16 values.
        biases: float32 by name, float16 values; the model's own biases if the loss did not fall.
        loss_before: loss before fine-tuning, on held-out inputs: mean KL divergence in nats for
            [n, classes] outputs, otherwise squared error relative to the variance of the float
            output; summed over outputs.
        loss_after: loss of the returned weights and biases, at most `loss_before`.
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
    epochs: int = 5,
    learning_rate: float = 5e-4,
    batch_size: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> FinetuneResult:
    """Fine-tune levels, scales and biases of all layers.

    A tenth of the inputs is held out. If the loss on these does not fall, the weights and biases
    are returned unchanged. The result is deterministic for a given number of threads.

    Args:
        model: the float model; opset 13 or later, initializers in memory or readable.
        weights: quantized weights, which replace initializers of the same names.
        biases: names of float initializers that are trained too.
        inputs: inputs by name, for each run. If the model's first dimension is symbolic, runs are
            split along the first axis into samples, and samples are shuffled.
        epochs: number of passes over the inputs.
        learning_rate: step size relative to the scale, to the root mean square of the codebook,
            and to the standard deviation of the bias.
        batch_size: samples per step.
        seed: seed of the order of inputs, and of the crops.
        progress: called with the samples (or runs) of each step, and their number in all epochs.

    Raises:
        QqonnxError: PyTorch is not installed, an operator is not supported, a weight or bias does
            not fit the model, or there are no inputs.
    """
    if not inputs:
        raise QqonnxError("finetune: there are no inputs")
    graph = compile_graph(model)
    # These modules import PyTorch; `compile_graph` has checked that it is installed.
    from qqonnx.finetune.loop import student_of, train, trained_values
    from qqonnx.finetune.losses import Runs, run_teacher

    _check(graph, weights, biases)
    if isinstance(model, onnx.ModelProto):
        model = ir.from_proto(model)
    samples = _samples(model, inputs)
    teacher = None
    if samples is not None:
        teacher = run_teacher(graph, Runs(samples, True, batch_size))
    if teacher is None:
        runs = tuple(dict(run) for run in inputs)
        length = max((len(array) for array in runs[0].values() if array.ndim), default=1)
        teacher = run_teacher(graph, Runs(runs, False, max(1, batch_size // max(1, length))))
    assert teacher is not None
    if not teacher.outputs:
        raise QqonnxError("finetune: the model has no float output")

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(teacher.runs.inputs))
    count = max(1, len(order) // 10)
    held_out, training = (order[:count], order[count:]) if len(order) > 1 else (order, order)
    old_biases = {name: graph.constants[name].numpy() for name in biases}
    student = student_of(weights, old_biases)
    before = teacher.mean_loss(held_out, student.constants())
    train(
        student,
        teacher,
        training,
        rng,
        epochs=epochs,
        learning_rate=learning_rate,
        progress=progress,
    )
    new_weights, new_biases = trained_values(student)
    after = teacher.mean_loss(held_out, student_of(new_weights, new_biases).constants())
    if not after < before:
        return FinetuneResult(list(weights), old_biases, before, before)
    return FinetuneResult(new_weights, new_biases, before, after)


def _samples(
    model: ir.Model, inputs: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[dict[str, NDArray[Any]], ...] | None:
    """Split runs into samples [1, ...]; return None if the model or the inputs do not allow it."""
    for value in model.graph.inputs:
        first = value.shape[0] if value.shape is not None and len(value.shape) else 1
        if value.name not in model.graph.initializers and isinstance(first, int):
            return None
    signatures = {
        tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(run.items()))
        for run in inputs
    }
    lengths = [{array.shape[:1] for array in run.values()} for run in inputs]
    if len(signatures) > 1 or any(len(sizes) != 1 or () in sizes for sizes in lengths):
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

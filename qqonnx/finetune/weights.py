"""Fine-tune the stored weights of a model; their indices stay fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.encoding.encode import round_weight, stored_weight
from qqonnx.encoding.packing import unpack
from qqonnx.encoding.stored import CodebookWeight, RoundedWeight, StoredWeight
from qqonnx.finetune.finetune import finetune
from qqonnx.finetune.tunable import TunableWeight
from qqonnx.model.select import select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qqonnx.config import Progress
    from qqonnx.model.select import Weight


def finetune_weights(
    model: ir.Model,
    stored: Sequence[StoredWeight],
    inputs: Sequence[Mapping[str, NDArray[Any]]],
    progress: Progress,
) -> list[StoredWeight]:
    """Return the stored weights with fine-tuned levels, scales and biases.

    Weights of subgraphs and functions are not changed.

    Args:
        model: the float model.
        stored: the weights, with one codebook each; biases as float16.
        inputs: inputs by name, for each run.
        progress: called with the name of this stage, the amount just done and the total amount.

    Raises:
        QqonnxError: PyTorch is missing, or the model has an operator that is not supported.
    """
    floats = {
        weight.name: weight
        for weight in select(model, include_bias=True)[0]
        if weight.scope is model.graph and weight.value.is_initializer()
    }
    tunable = [w for w in stored if isinstance(w, CodebookWeight) and w.name in floats]
    biases = [w.name for w in stored if isinstance(w, RoundedWeight) and w.name in floats]
    result = finetune(
        model,
        [_tunable(weight) for weight in tunable],
        biases,
        inputs,
        progress=lambda amount, total: progress("finetune", amount, total),
    )
    tuned: dict[str, StoredWeight | None] = {
        weight.name: _stored(weight, before, floats[weight.name])
        for weight, before in zip(result.weights, tunable, strict=True)
    }
    tuned |= {name: round_weight(floats[name], result.biases[name]) for name in biases}
    return [tuned.get(weight.name) or weight for weight in stored]


def _tunable(weight: CodebookWeight) -> TunableWeight:
    indices = unpack(weight.planes, weight.storage, int(np.prod(weight.shape)))
    order = np.argsort(weight.codebook, kind="stable")
    rank = np.empty(order.size, np.uint8)
    rank[order] = np.arange(order.size)
    return TunableWeight(
        name=weight.name,
        shape=weight.shape,
        indices=rank[indices].reshape(weight.shape),
        levels=weight.codebook[order].astype(np.float32),
        scales=None if weight.scales is None else weight.scales.astype(np.float32),
        channel_axis=weight.channel_axis,
    )


def _stored(tuned: TunableWeight, before: CodebookWeight, weight: Weight) -> CodebookWeight:
    return stored_weight(
        weight,
        tuned.indices,
        tuned.levels.astype(before.codebook.dtype),
        None if tuned.scales is None else tuned.scales.astype(np.float16),
        method=before.method,
        granularity=before.granularity,
    )

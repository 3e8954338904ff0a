"""Compression with plain codebooks: each weight by itself, without inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.compression.choice import nothing_to_compress
from qqonnx.compression.job import Made, made_of, store
from qqonnx.compression.quality import quality_feeds
from qqonnx.config import bits_of
from qqonnx.encoding import matmulnbits
from qqonnx.encoding.encode import NODE_BYTES, encode
from qqonnx.encoding.stored import BlockWeight, StoredWeight
from qqonnx.model.select import Skipped
from qqonnx.parallel import in_order

if TYPE_CHECKING:
    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.compression.choice import ChosenWeights
    from qqonnx.compression.job import Job
    from qqonnx.config import Options, WeightPlan


def write_plain(
    job: Job,
    model: ir.Model,
    chosen: ChosenWeights,
    bytes_before: int,
    inputs: CalibrationInputs | None = None,
) -> Made:
    """Write the model with each weight encoded as planned; `inputs` are those of its original."""
    assert not chosen.biases
    plans, skipped = chosen.plans, list(chosen.skipped)
    # The model has plain weights here.
    feeds = quality_feeds(model, inputs) if job.verify_outputs else ([], "")
    # Work on arrays of a channel's size is Python's more than numpy's: threads would only wait.
    threads = 1 if job.options.granularity == "channel" else job.threads
    total = sum(plan.weight.tensor.size for plan in plans)
    results = in_order(
        lambda plan: _encode(plan, job.options),
        plans,
        size=lambda plan: plan.weight.tensor.size,
        threads=threads,
    )
    stored: list[StoredWeight] = []
    for plan, weight in zip(plans, results, strict=True):
        job.progress(weight.name, plan.weight.tensor.size, total)
        smaller = weight.payload_bytes + NODE_BYTES < weight.bytes_before
        if smaller or isinstance(weight, BlockWeight):
            stored.append(weight)
        else:
            reason = "compressed it would be no smaller"
            skipped.append(Skipped(weight.name, weight.shape, weight.bytes_before, reason))
    if not stored and not job.quantized:
        raise nothing_to_compress(job.source, chosen, skipped)
    stored.sort(key=lambda weight: isinstance(weight, BlockWeight))
    store(model, stored, job, job.written)
    return made_of(feeds, bytes_before, stored, [*skipped, *chosen.integers])


def _encode(plan: WeightPlan, options: Options) -> StoredWeight:
    tensor = plan.weight.tensor
    if options.operators == "matmulnbits" and matmulnbits.fits(plan.weight):
        return matmulnbits.encode_blocks(plan.weight, bits_of(plan.weight, options))
    weight = encode(plan)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return weight

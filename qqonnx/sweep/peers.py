"""Baselines of other packages: palettization of coremltools, weight compression of NNCF."""

from __future__ import annotations

import io
import math
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import version_converter

from qqonnx.config import Options, plan_weights
from qqonnx.encoding.encode import stored_weight
from qqonnx.encoding.rewrite import rewrite
from qqonnx.logs import logging_disabled
from qqonnx.model.load import load
from qqonnx.model.save import save
from qqonnx.model.select import select

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qqonnx.config import WeightPlan
    from qqonnx.encoding.stored import CodebookWeight
    from qqonnx.sweep.baselines import BaselineRequest

_INT4_OPSET = 21
"""First opset in which DequantizeLinear takes 4-bit integers."""


def coremltools_kmeans(request: BaselineRequest) -> dict[str, str]:
    """Palettize each weight with coremltools, and store it in qqonnx's form.

    Core ML's own files have the same content: a table per weight, and indices of as many bits.
    """
    model = load(request.source)
    plans, _ = plan_weights(select(model)[0], Options(bits=request.bits))
    with _quiet():
        rewrite(model, [_palettized(entry, request.bits) for entry in plans])
    save(model, request.target)
    return {"size": "coremltools' tables and indices, in a file as qqonnx writes it"}


def nncf_int8(request: BaselineRequest) -> dict[str, str]:
    """Compress weights to uint8 with a scale and zero point per channel, NNCF's default."""
    import nncf

    with _quiet():
        model = nncf.compress_weights(onnx.load(request.source))
    return _saved(model, request, "INT8_ASYM")


def nncf_int4(request: BaselineRequest) -> dict[str, str]:
    """Compress weights of MatMul and Gemm to int4; NNCF keeps convolutions at 8 bits."""
    import nncf

    with _quiet():
        source = onnx.load(request.source)
        opset = next(
            entry.version for entry in source.opset_import if entry.domain in ("", "ai.onnx")
        )
        if opset < _INT4_OPSET:
            source = version_converter.convert_version(source, _INT4_OPSET)
        # A group size of -1 means one scale per channel.
        model = nncf.compress_weights(
            source, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=-1, all_layers=True
        )
    return _saved(model, request, "INT4_SYM for MatMul and Gemm, INT8_ASYM for the rest")


def _saved(model: onnx.ModelProto, request: BaselineRequest, mode: str) -> dict[str, str]:
    """Write NNCF's model with scales that ONNX Runtime accepts, and return notes."""
    # Scales of convolutions have the shape [channels, 1, 1], which ONNX Runtime refuses.
    names = {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and not any(attribute.name == "block_size" and attribute.i for attribute in node.attribute)
        for name in node.input[1:]
    }
    notes = {"mode": mode}
    for tensor in model.graph.initializer:
        if tensor.name in names and len(tensor.dims) > 1:
            tensor.dims[:] = [math.prod(tensor.dims)]
            notes["repaired"] = "scales of convolutions made one-dimensional, for ONNX Runtime"
    onnx.save(model, request.target)
    return notes


def _palettized(entry: WeightPlan, bits: int) -> CodebookWeight:
    from coremltools.models.neural_network import quantization_utils

    values = np.ascontiguousarray(entry.weight.tensor.numpy())
    # All of coremltools' palettization calls this function; the rest needs a Core ML model.
    table, indices = quantization_utils._get_kmeans_lookup_table_and_weight(bits, values)
    codebook = np.asarray(table).reshape(-1).astype(values.dtype)
    return stored_weight(
        entry.weight,
        np.asarray(indices).reshape(values.shape).astype(np.uint8),
        codebook,
        None,
        method=entry.method,
        granularity="tensor",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress bars and warnings of the packages."""
    with logging_disabled(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield

"""Read the stored weights of a compressed model: the only reader of the stored form.

How the decode nodes use a constant shows whether it is a codebook, scales or a plane of packed
indices; see `qqonnx.encoding.decode`.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.encoding.locate import DecodeGraph, decode_graphs, decoder
from qqonnx.encoding.matmulnbits import block_nodes, read_blocks
from qqonnx.encoding.packing import Storage, layouts, pack, unpack
from qqonnx.encoding.record import read_record
from qqonnx.encoding.stored import FLOAT16, CodebookWeight, RoundedWeight, StoredWeight, digest
from qqonnx.errors import QqonnxError
from qqonnx.model.scopes import FLOAT_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.encoding.packing import Indices, Plane
    from qqonnx.encoding.record import WeightRecord

_PLANE_TYPES = (ir.DataType.UINT8, ir.DataType.UINT16)
"""Data types of packed indices: bytes, or pairs of bytes."""

_MISMATCHES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Errors that a forged record, or the record of another file, can cause."""


def read(model: ir.Model) -> list[StoredWeight]:
    """Return the stored weights of a compressed model, in the order of its nodes.

    The result lacks a weight of the record if a graph simplifier has folded its decode nodes, fully
    or partly.

    Raises:
        QqonnxError: the model was not compressed by qqonnx, its record is damaged or does not fit,
            or a weight is computed by nodes that are not decode nodes.
    """
    records = read_record(model).weights
    blocks = block_nodes(model, records)
    weights: list[StoredWeight] = []
    stacks: dict[int, Indices] = {}
    for graph in decode_graphs(model, records.keys() - blocks.keys()):
        record = records[graph.name]
        try:
            if record.method == FLOAT16:
                weights.append(_rounded(graph, record))
            elif _is_packed(graph):
                whole = graph.stack or graph
                if id(whole) not in stacks:
                    stacks = {id(whole): _indices(whole, record.levels)}
                weights.append(_codebook_weight(graph, record, stacks[id(whole)]))
        except _MISMATCHES as error:
            raise QqonnxError(f"weight {graph.name!r}: its record does not fit") from error
    weights += [read_blocks(nodes[0], records[name].error) for name, nodes in blocks.items()]
    return weights


def storage_constants(model: ir.Model) -> set[ir.Value]:
    """Return the constants of all decode nodes: parts of stored weights, not weights."""
    names = read_record(model).weights
    return {constant for graph in decode_graphs(model, names) for constant in graph.constants}


def _rounded(graph: DecodeGraph, record: WeightRecord) -> RoundedWeight:
    (values,) = (tensor.numpy() for tensor in graph.tensors if tensor.dtype in FLOAT_TYPES)
    return RoundedWeight(
        name=graph.name,
        shape=values.shape,
        dtype=graph.dtype,
        method=record.method,
        granularity=record.granularity,
        levels=record.levels,
        bits=8 * values.itemsize,
        counts=np.zeros(0, np.int64),
        error=record.error,
        payload_bytes=values.nbytes,
        digest=lambda: digest(decoder(graph)()),
        values=values,
    )


def _indices(graph: DecodeGraph, levels: int) -> Indices:
    """Return the indices of a weight or of a stack: uint8 [n]."""
    planes, size = _planes(graph), prod(graph.shape)
    return unpack(planes, _storage(levels, size, tuple(map(len, planes))), size)


def _codebook_weight(graph: DecodeGraph, record: WeightRecord, indices: Indices) -> CodebookWeight:
    """Return a weight; `indices` are its own, or those of its stack."""
    shape, levels = graph.shape, record.levels
    if graph.stack is None:
        planes = _planes(graph)
        storage = _storage(levels, prod(shape), tuple(map(len, planes)))
        codebook, scales = _codebook_and_scales(graph, record)
    else:
        planes_of_stack = tuple(map(len, _planes(graph.stack)))
        storage = _storage(levels, prod(graph.stack.shape), planes_of_stack)
        row = prod(shape[1:])
        indices = indices[graph.start * row :][: graph.rows * row]
        planes = pack(indices, storage)
        codebook, scales = _part_of_codebooks(graph, record)
    if graph.dtype == ir.DataType.UINT8:
        codebook = codebook.astype(np.uint8)
    floats = codebook.nbytes + (scales.nbytes if scales is not None else 0)
    return CodebookWeight(
        name=graph.name,
        shape=shape,
        dtype=graph.dtype,
        method=record.method,
        granularity=record.granularity,
        levels=levels,
        bits=storage.bits_per_weight,
        counts=np.bincount(indices),
        error=record.error,
        payload_bytes=sum(plane.nbytes for plane in planes) + floats,
        digest=lambda: digest(decoder(graph)()),
        channel_axis=None,
        storage=storage,
        planes=planes,
        codebook=codebook,
        scales=scales,
    )


def _is_packed(graph: DecodeGraph) -> bool:
    """Return whether the decode nodes start from packed indices.

    If a simplifier has folded the first decode nodes, there is no plane of packed indices; or a
    plane is folded into a longer integer constant that is not a table, or into its fields.
    """
    planes = _plane_tensors(graph)
    longest = max((tensor.size for tensor in planes.values()), default=0)
    folded = any(
        tensor.dtype in (ir.DataType.INT32, ir.DataType.INT64)
        and tensor.size >= longest
        and not _is_parameter(value)
        for value, tensor in zip(graph.constants, graph.tensors, strict=True)
    )
    fields = any(
        node.op_type == "Concat" and index > 0 for value in planes for node, index in value.uses()
    )
    return longest > 0 and not folded and not fields


def _is_table(value: ir.Value) -> bool:
    return all(node.op_type == "Gather" and index == 0 for node, index in value.uses())


def _is_parameter(value: ir.Value) -> bool:
    """Return whether a constant is a shape, a bound, an operand for digits, or a table."""
    return all(
        index > 0
        if node.op_type in ("Div", "Expand", "Mod", "Mul", "Reshape", "Slice", "Split")
        else node.op_type == "Range" or (node.op_type == "Gather" and index == 0)
        for node, index in value.uses()
    )


def _planes(graph: DecodeGraph) -> tuple[Plane, ...]:
    """Return the packed indices, the byte plane first."""
    planes = [t.numpy().reshape(-1).view(np.uint8) for t in _plane_tensors(graph).values()]
    # Planes with fewer bits per code are shorter.
    return tuple(sorted(planes, key=len, reverse=True))


def _plane_tensors(graph: DecodeGraph) -> dict[ir.Value, ir.TensorProtocol]:
    """Return the constants that are packed indices, in any order."""
    return {
        value: tensor
        for value, tensor in zip(graph.constants, graph.tensors, strict=True)
        if tensor.dtype in _PLANE_TYPES
        and not _is_table(value)
        # The inputs of MatMulInteger are not planes: the second one has the factors of a code.
        and not any(node.op_type == "MatMulInteger" for node, _ in value.uses())
    }


def _storage(levels: int, size: int, plane_sizes: tuple[int, ...]) -> Storage:
    """Return the layout whose planes have these sizes."""
    for storage in layouts(levels):
        if storage.plane_sizes(size) == plane_sizes:
            return storage
    raise ValueError("no layout has such planes")


def _codebook_and_scales(
    graph: DecodeGraph, record: WeightRecord
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the codebook, [levels] or [channels, levels], and the scales [channels] if any."""
    parts = [
        (value, tensor.numpy())
        for value, tensor in zip(graph.constants, graph.tensors, strict=True)
        if tensor.dtype in (*FLOAT_TYPES, ir.DataType.INT8)
    ]
    scales = [array.reshape(-1) for value, array in parts if _is_factor(value)]
    (codebook,) = (array for value, array in parts if not _is_factor(value))
    if record.granularity != "channel":
        return codebook.reshape(-1), scales[0] if scales else None
    by_column = any(
        node.op_type == "GatherElements" and node.attributes.get_int("axis", 0) == 0
        for node in graph.nodes
    )
    return (codebook.T if by_column else codebook).reshape(-1, record.levels), None


def _part_of_codebooks(
    graph: DecodeGraph, record: WeightRecord
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the codebook and the scales of a weight in a stack; see `_codebook_and_scales`."""
    assert graph.stack is not None
    floats = [
        (value, tensor.numpy())
        for value, tensor in zip(graph.stack.constants, graph.stack.tensors, strict=True)
        if tensor.dtype in FLOAT_TYPES
    ]
    (codebooks,) = (array for value, array in floats if not _is_factor(value))
    scales = [array for value, array in floats if _is_factor(value)]
    part, count = graph.start // graph.rows, graph.stack.shape[0] // graph.rows
    codebook = codebooks.reshape(count, -1)[part]
    if record.granularity == "channel":
        codebook = codebook.reshape(-1, record.levels)
    return codebook, scales[0][part].reshape(-1) if scales else None


def _is_factor(value: ir.Value) -> bool:
    """Return whether a value, directly or after a Cast, is the second input of a Mul."""
    for node, index in value.uses():
        if node.op_type == "Cast":
            return _is_factor(node.outputs[0])
        if node.op_type == "Mul":
            return index == 1
    return False

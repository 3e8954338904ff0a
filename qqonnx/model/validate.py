"""Refuse invalid models: tensors that do not match their shapes, unsafe external data, cycles.

All checks use the protobuf, before any tensor is read. A valid model contains as much data as its
shapes require, so the size of its files bounds the memory it takes.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_FUNCTION_DEPTH = 64
"""Largest depth of nested function calls; ONNX Runtime inlines functions recursively."""

_TYPED_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
}
"""Field of TensorProto for values that are not raw, by data type; int32_data for all others."""

_MESSAGE_FIELDS = {
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
}
"""Field of AttributeProto that must be set, by attribute type."""

_DATA_FIELDS = ("raw_data", "string_data", "int32_data", *sorted(set(_TYPED_FIELDS.values())))


def check(proto: onnx.ModelProto, path: Path) -> None:
    """Check a model's tensors, names and functions, and load external data of attributes.

    External data of initializers stays on disk. External data of attributes (of Constant nodes) is
    rare and small; it is loaded into `proto`.

    Args:
        proto: the model, read from `path` without its external data.
        path: the model's file; external data is in the same folder.

    Raises:
        QqonnxError: a tensor does not match its shape; external data is missing, truncated, not a
            regular file, reached by a symbolic link, or outside the model's folder; a name is
            undefined or defined twice; functions call themselves; the model uses sparse or
            segmented tensors.
    """
    try:
        _check_functions(proto)
        for graph in (proto.graph, *proto.functions):
            _check_graph(graph, path.parent, frozenset())
    except RecursionError as error:
        raise QqonnxError(f"{path}: graphs are nested too deeply") from error
    except QqonnxError as error:
        raise QqonnxError(f"{path}: {error}") from error


def is_sorted(graph: ir.Graph | ir.Function) -> bool:
    """Return whether every node of a graph and its subgraphs comes after the nodes it reads."""
    for scope in (graph, *graph.subgraphs()):
        seen: set[ir.Node] = set()
        for node in scope:
            producers = (value.producer() for value in node.inputs if value is not None)
            if any(p is not None and p.graph is node.graph and p not in seen for p in producers):
                return False
            seen.add(node)
    return True


def _check_graph(
    graph: onnx.GraphProto | onnx.FunctionProto, folder: Path, outer: frozenset[str]
) -> None:
    """Check a graph and its subgraphs; `outer` has the names defined in the enclosing graphs."""
    names: set[str] = set()
    if isinstance(graph, onnx.GraphProto):
        if graph.sparse_initializer:
            raise QqonnxError("sparse initializers are not supported")
        for tensor in graph.initializer:
            _add(names, tensor.name, "initializer")
            _check_tensor(tensor, folder)
        # An initializer may also be an input: it is then the input's default.
        inputs: set[str] = set()
        for value in graph.input:
            _add(inputs, value.name, "input")
        names |= inputs
    else:
        for name in graph.input:
            _add(names, name, "input")
    for node in graph.node:
        for name in filter(None, node.output):
            _add(names, name, "output")
    known = outer | names
    for node in graph.node:
        _check_node(node, folder, known)
    for entry in graph.output:
        _require(entry if isinstance(entry, str) else entry.name, known, "an output")


def _check_node(node: onnx.NodeProto, folder: Path, known: frozenset[str]) -> None:
    for name in filter(None, node.input):
        _require(name, known, node.op_type)
    attributes: set[str] = set()
    for attribute in node.attribute:
        if not attribute.name:
            raise QqonnxError(f"{node.op_type}: an attribute has no name")
        _add(attributes, attribute.name, f"{node.op_type}: attribute")
        field = _MESSAGE_FIELDS.get(attribute.type)
        if field and not attribute.HasField(field) and not attribute.ref_attr_name:
            raise QqonnxError(f"{node.op_type}: attribute {attribute.name!r} is empty")
    for tensor in _attribute_tensors(node):
        _check_tensor(tensor, folder)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.raw_data = _external_bytes(tensor, folder)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    for graph in _subgraphs([node]):
        _check_graph(graph, folder, known)


def _require(name: str, known: frozenset[str], reader: str) -> None:
    if name not in known:
        raise QqonnxError(f"{reader} reads {name!r}, which is not defined")


def _add(names: set[str], name: str, kind: str) -> None:
    if name in names:
        raise QqonnxError(f"{kind} {name!r} is defined twice")
    names.add(name)


def _check_tensor(tensor: onnx.TensorProto, folder: Path) -> None:
    where = f"tensor {tensor.name!r}"
    if tensor.HasField("segment"):
        raise QqonnxError(f"{where} is stored in segments, which is not supported")
    if any(size < 0 for size in tensor.dims):
        raise QqonnxError(f"{where} has a negative dimension: {list(tensor.dims)}")
    size = prod(tensor.dims)
    try:
        dtype = ir.DataType(tensor.data_type)
        expected = size if dtype == ir.DataType.STRING else (size * dtype.bitwidth + 7) // 8
    except (ValueError, TypeError, KeyError) as error:
        raise QqonnxError(f"{where} has an unknown data type: {tensor.data_type}") from error
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if dtype == ir.DataType.STRING:
            raise QqonnxError(f"{where} holds strings, which cannot be external data")
        field = "external_data"
        _check_external(tensor, where, expected, folder)
    elif dtype == ir.DataType.STRING:
        field = "string_data"
        _expect(where, len(tensor.string_data), size, "strings")
    elif tensor.HasField("raw_data"):
        field = "raw_data"
        _expect(where, len(tensor.raw_data), expected, "bytes")
    else:
        field = _TYPED_FIELDS.get(dtype, "int32_data")
        # Types smaller than a byte are packed into bytes, and each byte is an int32.
        count = expected if dtype.bitwidth < 8 else size
        parts = 2 if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else 1
        _expect(where, len(getattr(tensor, field)), parts * count, "numbers")
    for other in _DATA_FIELDS:
        if other != field and len(getattr(tensor, other)):
            raise QqonnxError(f"{where} has data in {field} and in {other}")


def _expect(where: str, count: int, expected: int, unit: str) -> None:
    if count != expected:
        raise QqonnxError(f"{where} has {count} {unit}; its shape and type require {expected}")


def _check_external(tensor: onnx.TensorProto, where: str, expected: int, folder: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location or "\0" in location or "\\" in location:
        raise QqonnxError(f"{where}: external data has an invalid location: {location!r}")
    file = folder / location
    real = folder.resolve()
    if not file.resolve().is_relative_to(real):
        raise QqonnxError(f"{where}: external data is outside the model's folder: {location}")
    for step in (file, *file.parents):
        if step.resolve() == real:
            break
        if step.is_symlink():
            raise QqonnxError(f"{where}: external data {location} is reached by a symbolic link")
    if not file.exists():
        raise QqonnxError(f"external data file {location} is missing")
    if not file.is_file():
        raise QqonnxError(f"{where}: external data {location} is not a regular file")
    offset, length = (_byte_count(where, entries, key) for key in ("offset", "length"))
    if length is not None:
        _expect(where, length, expected, "bytes of external data")
    if file.stat().st_size < (offset or 0) + expected:
        raise QqonnxError(f"external data file {location} is truncated")


def _external_bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset", 0)))
        bits: int = prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
        content: bytes = file.read((bits + 7) // 8)
    return content


def _byte_count(where: str, entries: dict[str, str], key: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    # int() takes quadratic time for very long texts.
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise QqonnxError(f"{where}: external data {key} is not a number of bytes: {text[:40]!r}")
    return int(text)


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise QqonnxError(f"node {node.name!r}: sparse tensors are not supported")
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _with_subgraphs(
    graph: onnx.GraphProto | onnx.FunctionProto,
) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    yield graph
    for inner in _subgraphs(graph.node):
        yield from _with_subgraphs(inner)


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _check_functions(proto: onnx.ModelProto) -> None:
    """Refuse functions that are defined twice, or that call themselves directly or indirectly."""
    calls: dict[tuple[str, str, str], set[tuple[str, str, str]]] = {}
    for function in proto.functions:
        key = (function.domain, function.name, function.overload)
        if key in calls:
            raise QqonnxError(f"function {function.domain}.{function.name} is defined twice")
        calls[key] = {
            (node.domain, node.op_type, node.overload)
            for graph in _with_subgraphs(function)
            for node in graph.node
        }
    # Each step removes the functions that call no remaining one; a cycle is never removed.
    remaining = set(calls)
    for _ in range(MAX_FUNCTION_DEPTH):
        remaining = {key for key in remaining if calls[key] & remaining}
    if remaining:
        name = min(remaining)[1]
        raise QqonnxError(f"function {name!r} calls itself, or its calls are nested too deeply")

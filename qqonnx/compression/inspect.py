"""What a file holds: each weight's codebook and its cost, read back from the file itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qqonnx.codebooks import Distortion
from qqonnx.compression.results import WeightReport, weight_report
from qqonnx.encoding.encode import FLOAT16
from qqonnx.encoding.matmulnbits import GRANULARITY, BlockedWeight, scales_of_blocks
from qqonnx.encoding.packing import Storage, layouts, unpack
from qqonnx.encoding.restore import (
    CompressedWeight,
    blocked_weights,
    compressed_weights,
    metadata,
)
from qqonnx.errors import QqonnxError
from qqonnx.model.load import file_bytes, read
from qqonnx.model.scopes import FLOAT_TYPES
from qqonnx.model.select import Skipped, select

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a record that is not of this file, or was made up, can raise."""


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    Attributes:
        path: the file.
        file_bytes: its size, external data included.
        version: the qqonnx that compressed it; None if it is not compressed.
        weights: its compressed weights.
        plain: its plain float tensors, and what they are.
        inflated: weights that were compressed once and are floats again, or integers, as a graph
            simplifier leaves them that folds decoding wholly or in part.
    """

    path: Path
    file_bytes: int
    version: str | None
    weights: tuple[WeightReport, ...]
    plain: tuple[Skipped, ...]
    inflated: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection for JSON."""
        return {**asdict(self), "path": str(self.path)}


def inspect(path: Path) -> Inspection:
    """Read what compression did to a file, or which weights an uncompressed one holds.

    Args:
        path: an ONNX file.

    Returns:
        Its compressed weights, its plain float tensors, and how large it is.

    Raises:
        QqonnxError: the file cannot be read, or what it says of its compression is not so.
    """
    model = read(path)
    weights, skipped = select(model, include_bias=True)
    plain = [
        Skipped(weight.name, weight.shape, weight.tensor.nbytes, f"used by {_join(weight.users)}")
        for weight in weights
    ]
    compressed: list[CompressedWeight] = []
    blocked: list[BlockedWeight] = []
    records: dict[str, Any] = {}
    inflated: list[str] = []
    version = None
    if "qqonnx" in model.metadata_props:
        try:
            decoded, inflated = compressed_weights(model)
            for weight in decoded:
                if _is_packed(weight):
                    compressed.append(weight)
                else:
                    inflated.append(weight.name)
            blocked = list(blocked_weights(model).values())
            content = metadata(model)
            version, records = str(content.get("version")), content["weights"]
        except QqonnxError as error:
            raise QqonnxError(f"{path}: {error}") from error
    own = {constant.name for weight in compressed for constant in weight.constants}
    own |= {value.name for value in scales_of_blocks(model)}
    rounded = [
        Skipped(weight.name, weight.shape, 2 * prod(weight.shape), "stored as float16")
        for weight in compressed
        if _is_rounded(weight)
    ]
    return Inspection(
        path=path,
        file_bytes=file_bytes(model, path),
        version=version,
        weights=(
            *(_report(weight, path) for weight in compressed if not _is_rounded(weight)),
            *(_block_report(weight, records[weight.name], path) for weight in blocked),
        ),
        plain=tuple(entry for entry in (*plain, *skipped, *rounded) if entry.name not in own),
        inflated=tuple(sorted(inflated)),
    )


_PLANE_TYPES = (ir.DataType.UINT8, ir.DataType.UINT16)
"""Of packed indices: bytes, or two of them read as one number."""


def _is_packed(weight: CompressedWeight) -> bool:
    """Whether decoding starts from what was stored; a simplifier may have folded its first steps.

    Where it did, there is no plane of packed indices, or a folded one: a longer integer constant
    that is no table, or what a plane above the first was to give.
    """
    if _is_rounded(weight):
        return True
    planes = _plane_tensors(weight)
    longest = max((tensor.size for tensor in planes.values()), default=0)
    folded = any(
        tensor.dtype in (ir.DataType.INT32, ir.DataType.INT64)
        and tensor.size >= longest
        and not _is_table(value)
        for value, tensor in zip(weight.constants, weight.tensors, strict=True)
    )
    fields = any(
        node.op_type == "Concat" and index > 0 for value in planes for node, index in value.uses()
    )
    return longest > 0 and not folded and not fields


def _is_table(value: ir.Value) -> bool:
    return all(node.op_type == "Gather" and index == 0 for node, index in value.uses())


def _is_rounded(weight: CompressedWeight) -> bool:
    return bool(weight.record.get("method") == FLOAT16)


def _planes(weight: CompressedWeight) -> list[NDArray[np.uint8]]:
    """Return the packed indices, the byte plane first."""
    planes = [t.numpy().reshape(-1).view(np.uint8) for t in _plane_tensors(weight).values()]
    # A plane of fewer bits a code is shorter, so the length tells their order.
    return sorted(planes, key=len, reverse=True)


def _plane_tensors(weight: CompressedWeight) -> dict[ir.Value, ir.TensorProtocol]:
    """Return the constants that hold packed indices, in no order."""
    return {
        value: tensor
        for value, tensor in zip(weight.constants, weight.tensors, strict=True)
        if tensor.dtype in _PLANE_TYPES
        and not _is_table(value)
        # What bytes count in a code is the second input of MatMulInteger.
        and not any(node.op_type == "MatMulInteger" for node, _ in value.uses())
    }


def _storage(levels: int, size: int, plane_sizes: tuple[int, ...]) -> Storage:
    """Return the layout that planes of these sizes have."""
    for storage in layouts(levels):
        if storage.plane_sizes(size) == plane_sizes:
            return storage
    raise ValueError("its planes are of no layout")


def _report(weight: CompressedWeight, path: Path) -> WeightReport:
    try:
        record = weight.record
        shape = weight.shape
        size = prod(shape)
        planes = _planes(weight)
        storage = _storage(record["levels"], size, tuple(map(len, planes)))
        floats = [t for t in weight.tensors if t.dtype in FLOAT_TYPES]
        counts = np.bincount(unpack(tuple(planes), storage, size))
        return weight_report(
            weight.name,
            shape,
            method=str(record["method"]),
            granularity=str(record["granularity"]),
            levels=int(record["levels"]),
            counts=counts,
            bits=storage.bits_per_weight,
            error=_error(record),
            bytes_before=int(size * weight.dtype.itemsize),
            bytes_after=sum(p.nbytes for p in planes) + sum(t.nbytes for t in floats),
        )
    except _MISFITS as error:
        raise QqonnxError(f"{path}: weight {weight.name!r}: its record does not fit") from error


def _block_report(weight: BlockedWeight, record: dict[str, Any], path: Path) -> WeightReport:
    try:
        return weight_report(
            weight.name,
            weight.size,
            method=str(record["method"]),
            granularity=GRANULARITY,
            levels=2**weight.bits,
            counts=weight.counts,
            bits=weight.bits,
            error=_error(record),
            bytes_before=4 * weight.size[0] * weight.size[1],
            bytes_after=weight.payload_bytes,
        )
    except _MISFITS as error:
        raise QqonnxError(f"{path}: weight {weight.name!r}: its record does not fit") from error


def _error(record: dict[str, Any]) -> Distortion:
    return Distortion(float(record["l1"]), float(record["l2"]), float(record["sqnr"]))


def _join(users: tuple[str, ...]) -> str:
    return " and ".join(users)

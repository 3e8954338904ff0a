"""What a file holds: each weight's codebook and its cost, read back from the file itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.compression.results import WeightReport, weight_report
from qqonnx.encoding.matmulnbits import block_scales
from qqonnx.encoding.read import read, storage_constants
from qqonnx.encoding.record import is_compressed, read_record
from qqonnx.encoding.stored import FEEDBACK, FLOAT16
from qqonnx.errors import QqonnxError
from qqonnx.model.load import file_bytes
from qqonnx.model.load import read as read_model
from qqonnx.model.scopes import scopes
from qqonnx.model.select import Skipped, select, uses_as_weight
from qqonnx.model.source import ModelSource, model_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir

    from qqonnx.encoding.stored import StoredWeight


@dataclass(frozen=True)
class Inspection:
    """What a model holds.

    Attributes:
        path: the file; for a model in memory, a name that stands for it.
        file_bytes: bytes of the file, external data included.
        version: version of qqonnx that compressed the model; None if it is not compressed.
        weights: the compressed weights.
        plain: the plain float tensors, with their use.
        unobserved: weights that calibration chose levels for without error feedback, and why.
        inflated: names of weights that were compressed once and are plain numbers again, because a
            graph simplifier folded their decode nodes wholly or in part.
    """

    path: Path
    file_bytes: int
    version: str | None
    weights: tuple[WeightReport, ...]
    plain: tuple[Skipped, ...]
    unobserved: dict[str, str]
    inflated: tuple[str, ...]

    @property
    def problem(self) -> str | None:
        """Why the model is not compressed as a whole; None if it is."""
        if self.inflated:
            return (
                f"{len(self.inflated)} weights were compressed but are stored as floats now: a "
                "graph simplifier or an optimizer folded their decode nodes. Compress last."
            )
        return None if self.weights else "not compressed by qqonnx, or its record was removed"

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection for JSON."""
        return {**asdict(self), "path": str(self.path)}


def inspect(model: ModelSource) -> Inspection:
    """Read what compression did to a model, or which weights an uncompressed one holds.

    Args:
        model: the path of an ONNX file, or a model in memory.

    Returns:
        The compressed weights, the plain float tensors, and the size of the file.

    Raises:
        QqonnxError: the model cannot be read, or its record of a compression does not fit.
    """
    with model_file(model) as path:
        graph = read_model(path)
        try:
            return _inspected(graph, path)
        except QqonnxError as error:
            raise QqonnxError(f"{path}: {error}") from error


def _inspected(model: ir.Model, path: Path) -> Inspection:
    version = None
    stored: list[StoredWeight] = []
    recorded: set[str] = set()
    internal = block_scales(model)
    if is_compressed(model):
        record = read_record(model)
        version, recorded = record.version, set(record.weights)
        stored = read(model)
        internal |= storage_constants(model)
    weights, skipped = select(model, include_bias=True)
    plain = [
        Skipped(w.name, w.shape, w.tensor.nbytes, f"used by {' and '.join(w.users)}")
        for w in weights
    ]
    hidden = {value.name for value in internal}
    rounded = [
        Skipped(weight.name, weight.shape, weight.payload_bytes, "stored as float16")
        for weight in stored
        if weight.method == FLOAT16
    ]
    return Inspection(
        path=path,
        file_bytes=file_bytes(model, path),
        version=version,
        weights=tuple(weight_report(weight) for weight in stored if weight.method != FLOAT16),
        plain=(*(entry for entry in (*plain, *skipped) if entry.name not in hidden), *rounded),
        unobserved=_unobserved(model, stored),
        inflated=tuple(sorted(recorded - {weight.name for weight in stored})),
    )


def _unobserved(model: ir.Model, stored: Sequence[StoredWeight]) -> dict[str, str]:
    """Return the weights without error feedback in a calibrated model, and the reason for each."""
    if not any(weight.method == FEEDBACK for weight in stored):
        return {}
    names = {weight.name: len(weight.shape) for weight in stored if weight.method == "kmeans"}
    return {
        output.name: _use(model, output, names[output.name])
        for scope in scopes(model)
        for node in scope
        for output in node.outputs
        if output.name in names
    }


def _use(model: ir.Model, value: ir.Value, rank: int) -> str:
    uses = list(uses_as_weight(model, value, rank))
    if any(use.node.graph is not model.graph for use in uses):
        return "used in a subgraph or function"
    operators = sorted({use.node.op_type for use in uses} or {n.op_type for n, _ in value.uses()})
    return f"used by {' and '.join(operators)} in a way that is not observed"

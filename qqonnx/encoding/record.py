"""Write and read the record of a compression in the model's metadata.

The record is JSON. Schema 2 has the most frequent method, levels and granularity once. Each weight
has its three errors and the fields that differ:

    {"schema": 2, "version": "...", "common": {"method": ..., "levels": ..., "granularity": ...},
     "weights": {NAME: [l1, l2, sqnr], NAME: [l1, l2, sqnr, {"levels": ...}], ...}}

Schema 1, which has no field `schema`, has a full object for each weight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.codebooks import Distortion
from qqonnx.encoding.stored import FLOAT16
from qqonnx.errors import QqonnxError
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from qqonnx.encoding.stored import StoredWeight

METADATA_KEY = "qqonnx"
"""Key of the record in the model's metadata properties."""

SCHEMA = 2

_LARGEST_SQNR = 999.0
"""Value for an infinite ratio, which JSON does not support."""


@dataclass(frozen=True)
class WeightRecord:
    """The record of one weight.

    Attributes:
        method: name of the codebook method, or `FLOAT16`.
        levels: number of levels of a codebook; 0 for a tensor that is rounded.
        granularity: "tensor", "channel", "scale" or "block".
        error: error of the decoded values, to four digits.
    """

    method: str
    levels: int
    granularity: str
    error: Distortion


@dataclass(frozen=True)
class Record:
    """The record of a compressed model.

    Attributes:
        version: version of qqonnx that compressed the model.
        weights: record of each weight, by name.
    """

    version: str
    weights: Mapping[str, WeightRecord]


def is_compressed(model: ir.Model) -> bool:
    """Return whether the model has a record."""
    return METADATA_KEY in model.metadata_props


def write_record(model: ir.Model, weights: Sequence[StoredWeight]) -> None:
    """Write the record of the stored weights to the model's metadata."""
    kinds = [_kind(weight) for weight in weights]
    common = max(kinds, key=kinds.count, default={})
    entries: dict[str, Any] = {}
    for weight, kind in zip(weights, kinds, strict=True):
        error = weight.error
        own = {key: value for key, value in kind.items() if common.get(key) != value}
        numbers = [_short(error.l1), _short(error.l2), _short(min(error.sqnr, _LARGEST_SQNR))]
        entries[weight.name] = [*numbers, own] if own else numbers
    content = {"schema": SCHEMA, "version": __version__, "common": common, "weights": entries}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    model.metadata_props[METADATA_KEY] = text


def read_record(model: ir.Model) -> Record:
    """Return the record of a compressed model.

    Raises:
        QqonnxError: the model was not compressed by qqonnx, or by a later version with a newer
            schema; or the record is damaged.
    """
    text = model.metadata_props.get(METADATA_KEY)
    if text is None:
        raise QqonnxError(f"not compressed by qqonnx: its metadata has no {METADATA_KEY!r}")
    try:
        content = json.loads(text)
        schema = content.get("schema", 1)
        if isinstance(schema, int) and schema > SCHEMA:
            version = content.get("version")
            raise QqonnxError(f"compressed by a later version of qqonnx ({version}); update qqonnx")
        common = content.get("common", {})
        weights = {name: _parsed(entry, common) for name, entry in content["weights"].items()}
        return Record(str(content.get("version")), weights)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise QqonnxError(f"its metadata {METADATA_KEY!r} is damaged") from error


def _kind(weight: StoredWeight) -> dict[str, str | int]:
    if weight.method == FLOAT16:
        return {"method": FLOAT16}
    return {
        "method": weight.method,
        "levels": weight.levels,
        "granularity": weight.granularity,
    }


def _parsed(entry: Any, common: dict[str, Any]) -> WeightRecord:
    """Parse the entry of a weight, in either schema."""
    fields = entry
    if isinstance(entry, list):
        numbers, own = entry[:3], entry[3] if len(entry) > 3 else {}
        fields = {**common, **dict(zip(("l1", "l2", "sqnr"), numbers, strict=True)), **own}
    error = Distortion(*(float(fields[key]) for key in ("l1", "l2", "sqnr")))
    method = str(fields["method"])
    if method == FLOAT16:
        return WeightRecord(method, 0, "tensor", error)
    levels = fields["levels"]
    if not isinstance(levels, int) or not 1 <= levels <= 256:
        raise ValueError(levels)
    return WeightRecord(method, levels, str(fields["granularity"]), error)


def _short(number: float) -> float:
    return float(f"{number:.4g}")

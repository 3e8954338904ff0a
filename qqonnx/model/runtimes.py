"""Opsets and IR versions that the releases of ONNX Runtime read.

The decode nodes use opset 13 and run wherever the model itself runs. So one stored form serves all
releases; only the rest of the model can be too new for a release.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx

from qqonnx.errors import OptionError, QqonnxError

if TYPE_CHECKING:
    import onnx_ir as ir

LIMITS: dict[tuple[int, int], tuple[int, int]] = {
    (1, 15): (18, 9),
    (1, 16): (19, 9),
    (1, 17): (20, 9),
    (1, 18): (21, 10),
    (1, 21): (22, 10),
    (1, 23): (23, 11),
    (1, 24): (25, 13),
    (1, 25): (26, 13),
    (1, 32): (27, 14),
}
"""Newest opset and IR version that a release loads. Each entry holds up to the next one, and the
last for all later releases. Measured by tools/runtime_matrix.py; release 1.15 claims opset 19 but
lacks its Cast and Reshape."""

ROUNDING_LIMITS: dict[tuple[int, int], int] = {(1, 23): 22}
"""Newest opset whose QuantizeLinear a release computes, if it loads newer ones."""

OLDEST = min(LIMITS)


def fit_runtime(model: ir.Model, release: str) -> None:
    """Ensure that a release of ONNX Runtime reads the model; lower the IR version if necessary.

    Args:
        model: the model, changed in place.
        release: the release, for example "1.15" or "1.16.3".

    Raises:
        OptionError: `release` is not a release, or is older than `OLDEST`.
        QqonnxError: the model's opset or IR version is too new for the release, or for its
            QuantizeLinear.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", release)
    if not match:
        raise OptionError("runtime_min", f"must be a release such as 1.15, not {release}")
    version = (int(match[1]), int(match[2]))
    if version < OLDEST:
        raise OptionError(
            "runtime_min", f"must be 1.15 or later, the oldest release tested, not {release}"
        )
    opset, ir_version = max(limits for known, limits in LIMITS.items() if known <= version)
    used = model.graph.opset_imports.get("", 0)
    if used > opset:
        raise QqonnxError(
            f"ONNX Runtime {release} reads opsets up to {opset}, the model has {used}; "
            f"export it at opset {opset} or older"
        )
    rounding = ROUNDING_LIMITS.get(version, opset)
    if used > rounding and any(
        node.op_type == "QuantizeLinear" for node in model.graph.all_nodes()
    ):
        raise QqonnxError(
            f"ONNX Runtime {release} computes QuantizeLinear up to opset {rounding}, the model has "
            f"{used}; export it at opset {rounding} or older"
        )
    if model.ir_version > ir_version:
        domain = onnx.helper.make_opsetid("", used)
        needed = max(onnx.helper.find_min_ir_version_for([domain]), _ir_version_used(model))
        if needed > ir_version:
            raise QqonnxError(
                f"ONNX Runtime {release} reads IR versions up to {ir_version}, "
                f"the model needs {needed}"
            )
        model.ir_version = needed


def _ir_version_used(model: ir.Model) -> int:
    """Return the oldest IR version that has the model's features."""
    # IR version 8 introduced functions, version 10 their overloads.
    if any(function.overload for function in model.functions.values()):
        return 10
    return 8 if model.functions else 7

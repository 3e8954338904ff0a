"""Which opsets and IR versions the releases of ONNX Runtime read, and whether a model fits.

The decode nodes are opset 13 and run wherever the model itself does, so there is one storage form
for all releases; what an old release may refuse is the model around them.
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
"""Newest opset and IR version that a release loads, from the release on; later releases than
the last one here read at least as much. Measured by tools/runtime_matrix.py; release 1.15 says that
it reads opset 19 and lacks its Cast and Reshape."""

OLDEST = min(LIMITS)


def fit_runtime(model: ir.Model, release: str) -> None:
    """Make sure that an ONNX Runtime release reads the model; lowers its IR version if need be.

    Args:
        model: the model, changed in place.
        release: such as "1.15" or "1.16.3".

    Raises:
        QqonnxError: the release is unknown or older than `OLDEST`, or the model's opset or IR
            version is newer than it reads.
    """
    found = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", release)
    if not found:
        raise OptionError("runtime_min", f"must be a release such as 1.15, not {release}")
    wanted = (int(found[1]), int(found[2]))
    if wanted < OLDEST:
        raise OptionError(
            "runtime_min", f"must be 1.15 or later, the oldest release tested, not {release}"
        )
    opset, ir_version = max(limits for known, limits in LIMITS.items() if known <= wanted)
    used = model.graph.opset_imports.get("", 0)
    if used > opset:
        raise QqonnxError(
            f"ONNX Runtime {release} reads opsets up to {opset}, the model has {used}; "
            f"export it at opset {opset} or older"
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
    """Return the IR version that what the model holds came with."""
    # Functions came with 8; overloads of them, and metadata of nodes, with 10.
    if any(function.overload for function in model.functions.values()):
        return 10
    return 8 if model.functions else 7

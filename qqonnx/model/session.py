"""ONNX Runtime sessions on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from qqonnx.errors import QqonnxError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def open_session(
    model: Path | bytes,
    *,
    name: str | None = None,
    threads: int | None = None,
    spinning: bool = True,
    optimized: bool = True,
) -> ort.InferenceSession:
    """Load a model in ONNX Runtime's CPU provider.

    Args:
        model: an ONNX file, or a serialized model without external data.
        name: name of the model in error messages; its path by default.
        threads: number of threads per run; chosen by ONNX Runtime by default.
        spinning: whether idle threads spin. This makes runs faster, but slows down other work.
        optimized: whether ONNX Runtime may optimize the graph and pack weights.

    Raises:
        QqonnxError: ONNX Runtime does not load the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised and need not be logged
    if threads:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # errors of ONNX Runtime have no common class
        label = name or ("the model" if isinstance(model, bytes) else str(model))
        raise QqonnxError(f"{label}: ONNX Runtime does not load it: {first_line(error)}") from error


def run_session(
    session: ort.InferenceSession,
    feed: Mapping[str, NDArray[Any]],
    outputs: Sequence[str] | None = None,
    *,
    name: str = "the model",
) -> list[Any]:
    """Run a session once.

    Args:
        session: the session.
        feed: the inputs by name.
        outputs: names of the outputs to compute; None for all of them.
        name: name of the model in error messages.

    Raises:
        QqonnxError: the model does not run on these inputs.
    """
    # ONNX Runtime would compute all outputs for an empty list.
    if outputs is not None and not outputs:
        return []
    try:
        return list(session.run(None if outputs is None else list(outputs), dict(feed)))
    except Exception as error:
        raise QqonnxError(f"{name}: does not run: {first_line(error)}") from error

"""ONNX Runtime sessions on the CPU."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from qqonnx.errors import OptionError, QqonnxError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_custom_ops: ContextVar[tuple[str, ...]] = ContextVar("custom_ops", default=())
"""Libraries that every session registers; see `custom_operators`."""


@contextmanager
def custom_operators(libraries: Sequence[str | os.PathLike[str]]) -> Iterator[None]:
    """Register libraries of custom operators in every session that the block opens.

    Args:
        libraries: paths of the libraries, as for `SessionOptions.register_custom_ops_library`.

    Raises:
        OptionError: ONNX Runtime does not load a library.
    """
    paths = tuple(os.fspath(library) for library in libraries)
    for path in paths:
        if not Path(path).is_file():
            raise OptionError("custom_ops", f"{path}: no such file")
        try:
            ort.SessionOptions().register_custom_ops_library(path)
        except Exception as error:  # errors of ONNX Runtime have no common class
            raise OptionError("custom_ops", f"{path}: not loaded: {first_line(error)}") from error
    token = _custom_ops.set((*_custom_ops.get(), *paths))
    try:
        yield
    finally:
        _custom_ops.reset(token)


def open_session(
    model: Path | bytes,
    *,
    name: str | None = None,
    threads: int | None = None,
    spinning: bool = True,
    optimized: bool = True,
    without: Sequence[str] = (),
) -> ort.InferenceSession:
    """Load a model in ONNX Runtime's CPU provider, with the operators of `custom_operators`.

    Args:
        model: an ONNX file, or a serialized model without external data.
        name: name of the model in error messages; its path by default.
        threads: number of threads per run; chosen by ONNX Runtime by default.
        spinning: whether idle threads spin. This makes runs faster, but slows down other work.
        optimized: whether ONNX Runtime may optimize the graph and pack weights.
        without: names of optimizers of ONNX Runtime that are left out.

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
    for library in _custom_ops.get():
        options.register_custom_ops_library(library)
    try:
        return ort.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(without) or None,
        )
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

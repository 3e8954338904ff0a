"""A session of a model with additional outputs, or with initializers that a run can replace."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.compare import run_limited
from qqonnx.model.save import write
from qqonnx.model.scopes import tensor_of
from qqonnx.model.session import open_session
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnxruntime as ort
    from numpy.typing import NDArray


@contextmanager
def extended_session(
    model: ir.Model,
    *,
    outputs: Sequence[ir.Value] = (),
    inputs: Sequence[ir.Value] = (),
    cut: bool = False,
) -> Iterator[ort.InferenceSession]:
    """Open a model in ONNX Runtime with additional outputs and inputs.

    Args:
        model: the model; it is unchanged when the block begins.
        outputs: values of the model's graph that become outputs.
        inputs: initializers of the model's graph that become inputs with a default.
        cut: leave out what only the model's own outputs need; ONNX Runtime would run it.

    Raises:
        QqonnxError: ONNX Runtime does not load the model.
    """
    if cut:
        model, outputs = extracted(model, model.graph.inputs, outputs), ()
    graph = model.graph
    # In onnx_ir, `is_graph_output` stays true for outputs that were removed.
    present = {id(value) for value in graph.outputs}
    kinds = [(value, value.type, value.shape) for value in inputs]
    old_outputs, old_inputs = len(graph.outputs), len(graph.inputs)
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        try:
            for value in inputs:
                tensor = tensor_of(value)
                value.type = ir.TensorType(tensor.dtype)
                value.shape = ir.Shape(tensor.shape.numpy())
            graph.outputs.extend(value for value in outputs if id(value) not in present)
            graph.inputs.extend(inputs)
            write(model, path, external_data=True)
        finally:
            del graph.outputs[old_outputs:]
            del graph.inputs[old_inputs:]
            for value, kind, shape in kinds:
                value.type, value.shape = kind, shape
        # Spinning threads would slow down the quantization that runs at the same time.
        yield open_session(
            path,
            name="calibration: the model",
            spinning=False,
            # It would round the float weights between rounded activations, each in its own way.
            without=["WeightBiasQuantization"],
        )


def extracted(model: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    """Return a copy of the part of a model that computes some values from others.

    Raises:
        ValueError: the outputs need an input of the model that is not among `inputs`.
    """
    graph = ir.convenience.extract(model.graph, list(inputs), outputs)
    return ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))


def first_run(session: ort.InferenceSession, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Run a model for the first time: it may loop without end.

    Raises:
        QqonnxError: the model does not run on the inputs, or not within a minute.
    """
    try:
        return run_limited(session, dict(feed))
    except Exception as error:  # ONNX Runtime's errors have no common class
        reason = first_line(error)
        raise QqonnxError(f"calibration: the model: does not run: {reason}") from error

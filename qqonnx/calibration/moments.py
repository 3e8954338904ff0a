"""Second moments of what each layer sees, added up batch by batch in ONNX Runtime."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qqonnx.calibration.layers import patches
from qqonnx.errors import QqonnxError, first_line
from qqonnx.model.save import write
from qqonnx.model.scopes import tensor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from qqonnx.calibration.inputs import CalibrationInputs
    from qqonnx.calibration.layers import Layer

POSITIONS = 49
"""Positions of a Conv's output taken of each sample; neighbors tell nearly the same."""

MOST_BYTES = 1 << 30
"""Bytes of all second moments; the widest layers beyond that are left without."""


@dataclass(frozen=True)
class Moments:
    """Mean of x xT and of x over the patches x of a layer, for two halves of the samples.

    Attributes:
        halves: of x xT, float32 [2, groups, columns, columns].
        means: of x, float32 [2, groups, columns].
        samples: independent samples in both halves together, an estimate: positions of one
            image are not independent, and count as at most `_INDEPENDENT` of them.
    """

    halves: NDArray[np.float32]
    means: NDArray[np.float32]
    samples: float

    @property
    def all(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both means over all samples: float32 [groups, columns, columns], [groups, columns]."""
        return np.asarray(self.halves.mean(axis=0)), np.asarray(self.means.mean(axis=0))


_INDEPENDENT = 8


@contextmanager
def session_with(
    model: ir.Model, *, outputs: Sequence[ir.Value] = (), inputs: Sequence[ir.Value] = ()
) -> Iterator[ort.InferenceSession]:
    """Open a model in ONNX Runtime with more outputs, or initializers that a run may replace.

    Args:
        model: the model, which is as before afterwards.
        outputs: values of its graph.
        inputs: initializers of its graph.

    Raises:
        QqonnxError: ONNX Runtime does not load the model.
    """
    graph = model.graph
    # Not `is_graph_output`: onnx_ir goes on saying so of outputs that were taken away.
    present = {id(value) for value in graph.outputs}
    more = [value for value in outputs if id(value) not in present]
    with tempfile.TemporaryDirectory(prefix="qqonnx-") as folder:
        path = Path(folder) / "model.onnx"
        ends, starts = len(graph.outputs), len(graph.inputs)
        for value in inputs:
            tensor = tensor_of(value)
            value.type = ir.TensorType(tensor.dtype)
            value.shape = ir.Shape(tensor.shape.numpy())
        graph.outputs.extend(more)
        graph.inputs.extend(inputs)
        try:
            write(model, path, external_data=True)
            options = ort.SessionOptions()
            options.log_severity_level = 4
            # Waiting threads would take the processor from what is quantized meanwhile.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except QqonnxError:
            raise
        except Exception as error:
            raise QqonnxError(
                f"calibration: the model does not load: {first_line(error)}"
            ) from error
        finally:
            del graph.outputs[ends:]
            del graph.inputs[starts:]
        yield session


def run(
    session: ort.InferenceSession, names: Sequence[str], feed: dict[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Run a session.

    Raises:
        QqonnxError: it does not run on this input.
    """
    # To ONNX Runtime no names are those of all outputs.
    if not names:
        return []
    try:
        return list(session.run(list(names), feed))
    except Exception as error:
        raise QqonnxError(f"calibration: the model does not run: {first_line(error)}") from error


def collect(
    model: ir.Model,
    layers: Sequence[Layer],
    inputs: CalibrationInputs,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Moments]:
    """Return the second moments of each layer by its weight's name.

    Activations are held for one batch only. Layers whose moments would go beyond `MOST_BYTES`
    together with those of narrower ones are left out.

    Raises:
        QqonnxError: the model does not run on the inputs, or gives values that are not finite.
    """
    chosen = _within_memory(layers)
    sums = {
        layer.name: np.zeros((2, layer.groups, layer.columns, layer.columns), np.float32)
        for layer in chosen
    }
    firsts = {
        layer.name: np.zeros((2, layer.groups, layer.columns), np.float32) for layer in chosen
    }
    counts = {name: np.zeros(2) for name in sums}
    samples = dict.fromkeys(sums, 0.0)
    values = list(dict.fromkeys(value for layer in chosen for value in layer.inputs))
    computed = [value for value in values if not value.is_graph_input()]
    names = [value.name or "" for value in computed]
    random = np.random.default_rng(0)
    with session_with(model, outputs=computed) as session:
        for number, batch in enumerate(inputs.batches()):
            progress("activations", inputs.batch_size, 2 * inputs.count)
            seen_by = dict(zip(names, run(session, names, batch), strict=True)) | batch
            for layer in chosen:
                for value in layer.inputs:
                    activation = seen_by[value.name or ""]
                    seen = patches(
                        layer, activation.astype(np.float32, copy=False), POSITIONS, random
                    )
                    sums[layer.name][number % 2] += seen.transpose(0, 2, 1) @ seen
                    firsts[layer.name][number % 2] += seen.sum(axis=1)
                    counts[layer.name][number % 2] += seen.shape[1]
                    positions = seen.shape[1] / len(activation)
                    samples[layer.name] += len(activation) * min(positions, _INDEPENDENT)
    found = {}
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise QqonnxError(f"calibration: the input of weight {name!r} is not finite")
        first, count = firsts[name], np.maximum(counts[name], 1).astype(np.float32)
        total /= count[:, None, None, None]
        first /= count[:, None, None]
        if not counts[name][1]:
            total[1], first[1] = total[0], first[0]
        found[name] = Moments(total, first, samples[name])
    return found


def _within_memory(layers: Sequence[Layer]) -> list[Layer]:
    kept, total = set(), 0
    for layer in sorted(layers, key=lambda layer: layer.columns):
        total += 2 * 4 * layer.groups * layer.columns**2
        if total <= MOST_BYTES:
            kept.add(layer.name)
    return [layer for layer in layers if layer.name in kept]

"""Simulated quantization: a network whose weights each run may replace, and its second moments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from qqonnx.calibration.layers import layer_of
from qqonnx.codebooks import assign, fit
from qqonnx.evaluation.metrics import count, divergence
from qqonnx.model.load import load
from qqonnx.model.select import select
from qqonnx.model.session import open_session, run_session
from qqonnx.study.networks import load_images

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir
    import onnxruntime as ort
    from numpy.typing import NDArray

    from qqonnx.codebooks import Method
    from qqonnx.evaluation.metrics import Counts
    from qqonnx.study.models import StudyModel

    FloatArray = NDArray[np.float32]

SIMULATION_IMAGES = 300
"""Largest number of held-out images that accuracy with changed weights is measured on."""

CALIBRATION_IMAGES = 128
"""Largest number of other images, which give activations and the KL that predicts accuracy."""

BATCH_SIZE = 64


@dataclass(frozen=True)
class Simulation:
    """A network in ONNX Runtime whose weights are inputs with default values.

    Attributes:
        session: the ONNX Runtime session.
        input_name: name of the input for images.
        weights: all float weights and biases by name, in graph order.
        second_moments: for each weight of a Conv, Gemm or MatMul, the mean square of the
            activations that its entries are multiplied with, on the calibration images; its shape
            is that of the weight.
        images: held-out images, float32 [n, c, h, w].
        targets: index of each image's correct output, int64 [n].
        calibration: calibration images, float32 [n, c, h, w].
        reference: outputs of the float network for `images`, [n, classes].
        calibration_reference: outputs of the float network for `calibration`, [n, classes].
    """

    session: ort.InferenceSession
    input_name: str
    weights: dict[str, FloatArray]
    second_moments: dict[str, NDArray[np.float64]]
    images: FloatArray
    targets: NDArray[np.int64]
    calibration: FloatArray
    reference: NDArray[Any]
    calibration_reference: NDArray[Any]

    def outputs(self, images: FloatArray, changed: Mapping[str, FloatArray]) -> NDArray[Any]:
        """Return the outputs [n, classes] with some weights replaced by those in `changed`."""
        return _outputs(self.session, self.input_name, images, changed)

    def score(self, changed: Mapping[str, FloatArray]) -> Counts:
        """Score the outputs for the held-out images with the replaced weights `changed`."""
        return count(self.outputs(self.images, changed), self.targets, self.reference)

    def calibration_kl(self, changed: Mapping[str, FloatArray]) -> float:
        """Return the mean KL to the float outputs on the calibration images, in nats."""
        outputs = self.outputs(self.calibration, changed)
        return float(divergence(self.calibration_reference, outputs).mean())


@lru_cache(maxsize=1)
def open_simulation(model: StudyModel) -> Simulation:
    """Load a network so that its weights are inputs.

    Raises:
        QqonnxError: the file cannot be read, or the images do not fit it.
    """
    graph = load(model.path)
    names = [weight.name for weight in select(graph, include_bias=True)[0]]
    proto = onnx.load(model.path)
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    weights = {name: arrays[name] for name in names if name in arrays}
    input_name = proto.graph.input[0].name
    images, targets = load_images(model, model.held_out, SIMULATION_IMAGES)
    calibration, _ = load_images(model, model.calibration, CALIBRATION_IMAGES)
    moments = _second_moments(graph, proto, input_name, calibration)
    for name, array in weights.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    session = open_session(proto.SerializeToString(), name=str(model.path), threads=1)
    return Simulation(
        session,
        input_name,
        weights,
        moments,
        images,
        targets,
        calibration,
        _outputs(session, input_name, images, {}),
        _outputs(session, input_name, calibration, {}),
    )


def quantized(simulation: Simulation, method: str | Method, levels: int) -> dict[str, FloatArray]:
    """Return all weights of the network, each quantized with a codebook of its own."""
    weights = {}
    for name, weight in simulation.weights.items():
        codebook = fit(weight.reshape(-1), method, levels)
        weights[name] = codebook.levels.astype(weight.dtype)[assign(weight, codebook)]
    return weights


def _second_moments(
    model: ir.Model, proto: onnx.ModelProto, input_name: str, images: FloatArray
) -> dict[str, NDArray[np.float64]]:
    layers = [layer for weight in select(model)[0] if (layer := layer_of(weight)) is not None]
    activation_of = {layer.name: str(layer.inputs[0].name) for layer in layers}
    computed = sorted(set(activation_of.values()) - {input_name})
    extended = onnx.ModelProto()
    extended.CopyFrom(proto)
    for name in computed:
        extended.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = open_session(extended.SerializeToString(), threads=1)
    outputs = run_session(session, {input_name: images}, computed)
    activations = dict(zip(computed, outputs, strict=True)) | {input_name: images}
    moments = {}
    for layer in layers:
        channel_axis = 1 if layer.operator == "Conv" else -1
        square = _mean_square(activations[activation_of[layer.name]], channel_axis)
        # All positions of a kernel have the moment of their channel.
        columns = np.repeat(square, layer.groups * layer.columns // square.size)
        row_count = prod(layer.shape) // columns.size
        rows = np.repeat(columns.reshape(layer.groups, 1, -1), row_count, axis=1)
        moments[layer.name] = layer.weight(rows)
    return moments


def _mean_square(values: FloatArray, channel_axis: int) -> NDArray[np.float64]:
    """Return the mean square of each channel [c] of activations."""
    channels = np.moveaxis(values.astype(np.float64), channel_axis, 0)
    return np.asarray(np.square(channels).reshape(len(channels), -1).mean(axis=1))


def _outputs(
    session: ort.InferenceSession,
    input_name: str,
    images: FloatArray,
    changed: Mapping[str, FloatArray],
) -> NDArray[Any]:
    parts = [
        run_session(session, {input_name: images[start : start + BATCH_SIZE], **changed})[0]
        for start in range(0, len(images), BATCH_SIZE)
    ]
    return np.concatenate(parts).reshape(len(images), -1)

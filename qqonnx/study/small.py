"""The small network of Figure 2: two hidden layers, trained by scikit-learn, written as ONNX."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qqonnx.cache import cache_folder
from qqonnx.evaluation.preprocessing import PREPROCESSING_KEY, Preprocessing
from qqonnx.extras import import_extra
from qqonnx.study.data import Split, digits, read_npz, write_npz
from qqonnx.study.models import StudyModel, digest_of, write_splits
from qqonnx.temporary import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from qqonnx.study.data import ImageSet

HIDDEN = (128, 64)
SEED = 0
EPOCHS = 30
EPOCHS_OF_MANY = 3
"""Passes over the images and their shifted copies, and over 10,000 images or more."""

_SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Training images are shifted by one pixel in each direction, too."""


def small_network(images: ImageSet) -> StudyModel:
    """Return the small network for gray images, from the cache or trained now (seconds).

    Raises:
        QqonnxError: scikit-learn is not installed.
    """
    arrays = [array.tobytes() for array in images.training + images.held_out]
    home = cache_folder("study") / "models" / digest_of(*arrays)
    held_out, calibration = write_splits(images, home)
    path = home / f"small-{digest_of(repr((HIDDEN, SEED, EPOCHS, EPOCHS_OF_MANY)))}.onnx"
    if not path.exists():
        with atomic_write(path) as target:
            onnx.save(_trained(images), target)
    return StudyModel("small", "small network", path, held_out, calibration, images.name)


def _trained(images: ImageSet) -> onnx.ModelProto:
    network = import_extra("sklearn.neural_network", "study")
    threads = import_extra("threadpoolctl", "study")
    many = len(images.training.images) >= 10_000
    padded = np.pad(images.training.images, ((0, 0), (1, 1), (1, 1)))
    height, width = images.training.images.shape[1:]
    shifted = [
        padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        for down, right in _SHIFTS
    ]
    pixels = np.concatenate(shifted).reshape(-1, height * width) / np.float32(255)
    classifier = network.MLPClassifier(
        HIDDEN,
        max_iter=EPOCHS_OF_MANY if many else EPOCHS,
        alpha=1e-3,
        batch_size=64,
        random_state=SEED,
    )
    # One thread: the result depends on the order of sums, and small products gain nothing.
    with warnings.catch_warnings(), threads.threadpool_limits(1):
        # It is meant to end at the given number of epochs.
        warnings.simplefilter("ignore")
        classifier.fit(pixels, np.tile(images.training.labels, len(_SHIFTS)))
    return _as_onnx(classifier.coefs_, classifier.intercepts_, images)


def _as_onnx(
    matrices: Sequence[NDArray[np.float32]],
    biases: Sequence[NDArray[np.float32]],
    images: ImageSet,
) -> onnx.ModelProto:
    side = images.training.images.shape[1]
    nodes = [helper.make_node("Flatten", ["input"], ["hidden0"])]
    initializers = []
    for layer, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        last = layer == len(matrices) - 1
        output = "logits" if last else f"sum{layer}"
        nodes.append(
            helper.make_node("Gemm", [f"hidden{layer}", f"weight{layer}", f"bias{layer}"], [output])
        )
        if not last:
            nodes.append(helper.make_node("Relu", [output], [f"hidden{layer + 1}"]))
        for name, array in ((f"weight{layer}", matrix), (f"bias{layer}", bias)):
            initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", images.classes])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    steps = Preprocessing(side, side, "bilinear", (0.0,), (1.0,))
    helper.set_model_props(model, {PREPROCESSING_KEY: steps.to_json()})
    return model


def bundled_network(checkout: Path) -> StudyModel | None:
    """Return the MobileNetV3-Small of a source checkout, or None if it is not there.

    Its training images, for calibration, are the digits of scikit-learn that it does not hold out.

    Raises:
        QqonnxError: scikit-learn is not installed.
    """
    path = checkout / "models" / "digits_mobilenet_v3_small.onnx"
    data = path.with_name("digits_test.npz")
    if not (path.is_file() and data.is_file()):
        return None
    everything = digits()
    images = np.concatenate([everything.training.images, everything.held_out.images])
    labels = np.concatenate([everything.training.labels, everything.held_out.labels])
    held_out = {image.tobytes() for image in read_npz(data).images}
    other = np.array([image.tobytes() not in held_out for image in images])
    calibration = cache_folder("study") / "models" / f"bundled-{digest_of(data)}.npz"
    if not calibration.exists():
        calibration.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(calibration) as target:
            write_npz(target, Split(images[other], labels[other]))
    label = "MobileNetV3-Small (bundled)"
    return StudyModel("bundled", label, path, data, calibration, everything.name)

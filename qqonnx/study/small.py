"""Figure 2's small network, trained by scikit-learn and written as ONNX; the bundled network."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from qqonnx.cache import cache_folder
from qqonnx.extras import import_extra
from qqonnx.inputs.preprocessing import PREPROCESSING_KEY, Preprocessing
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
"""Epochs over the images and their shifted copies; for 10,000 images or more, EPOCHS_OF_MANY."""

_SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Shifts of the training images, in pixels."""


def small_network(images: ImageSet) -> StudyModel:
    """Return the small network for gray images, from the cache or after training for seconds.

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
    # The order of sums depends on the number of threads, and small products gain nothing from more.
    with warnings.catch_warnings(), threads.threadpool_limits(1):
        # The warning says that training stopped at the given number of epochs, as intended.
        warnings.simplefilter("ignore")
        classifier.fit(pixels, np.tile(images.training.labels, len(_SHIFTS)))
    return _as_onnx(classifier.coefs_, classifier.intercepts_, images)


def _as_onnx(
    matrices: Sequence[NDArray[np.float32]],
    biases: Sequence[NDArray[np.float32]],
    images: ImageSet,
) -> onnx.ModelProto:
    side = images.training.images.shape[1]
    last = len(matrices) - 1
    nodes = ["hidden0 = Flatten(input)"]
    for layer in range(last):
        nodes.append(f"sum{layer} = Gemm(hidden{layer}, weight{layer}, bias{layer})")
        nodes.append(f"hidden{layer + 1} = Relu(sum{layer})")
    nodes.append(f"logits = Gemm(hidden{last}, weight{last}, bias{last})")
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]>
        small (float[batch, 1, {side}, {side}] input) => (float[batch, {images.classes}] logits)
        {{ {" ".join(nodes)} }}"""
    )
    for layer, arrays in enumerate(zip(matrices, biases, strict=True)):
        for name, array in zip(("weight", "bias"), arrays, strict=True):
            tensor = numpy_helper.from_array(array.astype(np.float32), f"{name}{layer}")
            model.graph.initializer.append(tensor)
    steps = Preprocessing(side, side, "bilinear", (0.0,), (1.0,))
    helper.set_model_props(model, {PREPROCESSING_KEY: steps.to_json()})
    return model


def bundled_network(checkout: Path) -> StudyModel | None:
    """Return the bundled MobileNetV3-Small of a source checkout; None if it is missing.

    The calibration images are scikit-learn's digits without the held-out images.

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

"""Image classifiers in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.errors import QqonnxError
from qqonnx.model.session import open_session, run_session

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime as ort
    from numpy.typing import NDArray

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


@dataclass(frozen=True)
class Classifier:
    """A session whose only input is a batch of images.

    Attributes:
        path: the ONNX file.
        session: the ONNX Runtime session.
        input_name: name of the input.
        dtype: dtype of the input.
        batch: batch size, if the model fixes it.
        channels_last: whether the input is [n, height, width, channels].
        size: height and width of the images, if the model fixes them.
    """

    path: Path
    session: ort.InferenceSession
    input_name: str
    dtype: Any
    batch: int | None
    channels_last: bool
    size: int | None

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata properties of the model."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Return the outputs [n, classes] for images float32 [n, channels, height, width].

        If the model has several outputs, the first with one row per image is taken.

        Raises:
            QqonnxError: the model does not accept the images, or has no such output.
        """
        inputs = images.astype(self.dtype, copy=False)
        if self.channels_last:
            inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
        step = self.batch or max(len(inputs), 1)
        parts = []
        for start in range(0, len(inputs), step):
            part = inputs[start : start + step]
            missing = step - len(part) if self.batch else 0
            if missing:
                part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            parts.append(self._run_once(part)[: step - missing])
        return np.concatenate(parts)

    def _run_once(self, inputs: NDArray[Any]) -> NDArray[Any]:
        for output in run_session(self.session, {self.input_name: inputs}, name=str(self.path)):
            if isinstance(output, np.ndarray) and output.ndim >= 2 and len(output) == len(inputs):
                return output.reshape(len(output), -1)
        raise QqonnxError(f"{self.path}: has no output with one row per image")


def open_classifier(path: Path, threads: int | None = None) -> Classifier:
    """Load an image classifier in ONNX Runtime's CPU provider.

    Args:
        path: the ONNX file.
        threads: threads of one run; ONNX Runtime's own choice by default.

    Raises:
        QqonnxError: the model does not load, or its input is not one batch of images.
    """
    if not path.is_file():
        raise QqonnxError(f"{path}: no such file")
    session = open_session(path, threads=threads)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _DTYPES:
        raise QqonnxError(f"{path}: its input is not one batch of images as floats [n, c, h, w]")
    shape = inputs[0].shape
    channels_last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    side = shape[1] if channels_last else shape[2]
    return Classifier(
        path=path,
        session=session,
        input_name=inputs[0].name,
        dtype=_DTYPES[inputs[0].type],
        batch=shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None,
        channels_last=channels_last,
        size=side if isinstance(side, int) and side > 0 else None,
    )

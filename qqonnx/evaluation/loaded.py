"""Models in ONNX Runtime that take the same inputs, in their own types and layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError, EncodeError

from qqonnx.errors import QqonnxError
from qqonnx.model.random import with_seeds
from qqonnx.model.session import open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnxruntime as ort
    from numpy.typing import NDArray

    Outputs = dict[str, Any]
    """Outputs of one run by name: arrays, or lists for sequences."""

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{
        f"tensor({name}{n})": np.dtype(f"{name}{n}").type
        for name in ("int", "uint")
        for n in (8, 16, 32, 64)
    },
}


@dataclass(frozen=True)
class LoadedModel:
    """A model and its session.

    Attributes:
        path: the ONNX file.
        session: the ONNX Runtime session.
        dtypes: dtype of each input by name.
        batch: batch size of a model with one input, if the model fixes it.
        images: whether the only input is a batch of images with 1 or 3 channels.
        channels_last: whether these are [n, height, width, channels].
        size: height and width of the images, if the only input is images of a fixed size.
    """

    path: Path
    session: ort.InferenceSession
    dtypes: Mapping[str, Any]
    batch: int | None
    images: bool
    channels_last: bool
    size: int | None

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata properties of the model."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def run(self, feed: Mapping[str, Any]) -> Outputs:
        """Return the outputs by name.

        Args:
            feed: arrays by name of the input; others are ignored. A single array may have any
                name. Images are [n, channels, height, width] or as the model takes them.

        Raises:
            QqonnxError: the model does not run on these inputs, or an input has no array.
        """
        if len(self.dtypes) == 1 and len(feed) == 1:
            feed = dict(zip(self.dtypes, feed.values(), strict=True))
        missing = [name for name in self.dtypes if name not in feed]
        if missing:
            raise QqonnxError(f"{self.path}: the data have no array for its input {missing[0]!r}")
        arrays = {name: np.asarray(feed[name], dtype) for name, dtype in self.dtypes.items()}
        if len(arrays) == 1:
            ((name, array),) = arrays.items()
            return self._run_batch(name, self._arranged(array))
        return self._run_once(arrays)

    def _arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        if self.channels_last and array.ndim == 4 and array.shape[3] not in (1, 3):
            return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        return array

    def _run_batch(self, name: str, array: NDArray[Any]) -> Outputs:
        """Run one input; if the model fixes the batch size, in parts of that size."""
        step = self.batch
        if step is None or not array.ndim or len(array) == step:
            return self._run_once({name: array})
        parts = []
        for start in range(0, len(array), step):
            part = array[start : start + step]
            padding = np.repeat(part[-1:], step - len(part), axis=0)
            outputs = self._run_once({name: np.concatenate([part, padding])})
            parts.append({key: _first(output, step, len(part)) for key, output in outputs.items()})
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _run_once(self, arrays: Mapping[str, NDArray[Any]]) -> Outputs:
        names = [entry.name for entry in self.session.get_outputs()]
        outputs = run_session(self.session, arrays, names, name=str(self.path))
        return dict(zip(names, outputs, strict=True))


def _first(output: Any, batch: int, count: int) -> Any:
    """Return the first `count` samples of an output of `batch` samples."""
    return output[:count] if len(output) == batch else output


def load_model(path: Path, threads: int | None = None) -> LoadedModel:
    """Load a model in ONNX Runtime's CPU provider; random nodes draw the same in every model.

    Args:
        path: the ONNX file.
        threads: threads of one run; ONNX Runtime's own choice by default.

    Raises:
        QqonnxError: the model does not load, or an input is not a tensor of numbers.
    """
    if not path.is_file():
        raise QqonnxError(f"{path}: no such file")
    try:
        model = with_seeds(path)
    except (OSError, ValueError, EncodeError, DecodeError):
        model = path
    session = open_session(model, name=str(path), threads=threads)
    inputs = session.get_inputs()
    for entry in inputs:
        if entry.type not in _DTYPES:
            raise QqonnxError(f"{path}: its input {entry.name!r} is a {entry.type}")
    shape = inputs[0].shape if len(inputs) == 1 else []
    # A number of channels that is left open is taken for that of images.
    images = len(shape) == 4 and any(
        size in (1, 3) or not isinstance(size, int) for size in (shape[1], shape[3])
    )
    channels_last = images and shape[3] in (1, 3) and shape[1] not in (1, 3)
    side = (shape[1] if channels_last else shape[2]) if images else None
    return LoadedModel(
        path=path,
        session=session,
        dtypes={entry.name: _DTYPES[entry.type] for entry in inputs},
        batch=shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None,
        images=images,
        channels_last=channels_last,
        size=side if isinstance(side, int) and side > 0 else None,
    )

"""Networks compressed by a scheme: what accuracy is left, measured on the compressed file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.compression.pipeline import compress
from qqonnx.config import Options
from qqonnx.evaluation.data import batches, open_dataset, output_indices
from qqonnx.evaluation.metrics import count
from qqonnx.evaluation.preprocessing import for_model
from qqonnx.evaluation.session import open_classifier
from qqonnx.study.models import digest_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.study.models import StudyModel
    from qqonnx.study.schemes import Scheme

IMAGES = 1000
"""Held-out images an accuracy is measured on, at most."""

FLOAT_BITS = 32


@dataclass(frozen=True)
class NetworkJob:
    """One network to be measured: compressed by `scheme` at `bits`, or as it is.

    Attributes:
        model: the float network.
        scheme: None for the float network itself.
        bits: the bit-width that the scheme is named by; 32 for floats.
    """

    model: StudyModel
    scheme: Scheme | None
    bits: int

    @property
    def key(self) -> str:
        """What the result depends on, but for versions."""
        scheme = (self.scheme.method, self.scheme.granularity) if self.scheme else ("float", "")
        content = digest_of(self.model.path, *_files(self.model.held_out))
        return f"network {content} {' '.join(scheme)} {self.bits} {IMAGES}"

    @property
    def cost(self) -> float:
        """Time it takes, in a unit of its own: the model's bytes, and a start."""
        return self.model.path.stat().st_size + 6e6

    def run(self) -> dict[str, Any]:
        """Return accuracy, agreement and KL on held-out images, and errors of the weights.

        Returns:
            images, top1 (share), agreement (share), kl (nats, mean); for a compressed network
            also bytes, compressed (share of the float parameters' bytes), and means over the
            compressed weights: bits (stored), entropy (bits), l1, l2, noise (L2 over the mean
            square).
        """
        images, answers = held_out(self.model)
        reference = float_outputs(self.model)
        if self.scheme is None:
            found = count(reference, answers, reference)
            return _accuracy(found)
        with tempfile.TemporaryDirectory(prefix="qqonnx-") as folder:
            output = Path(folder) / "small.onnx"
            options = Options(
                method=self.scheme.method,
                bits=self.bits,
                granularity=self.scheme.granularity,
                include_bias=True,
                min_size=0,
            )
            report = compress(self.model.path, output, options, threads=1)
            outputs = _run(open_classifier(output, threads=1), images)
        size = np.array([np.prod(weight.shape) for weight in report.weights], np.float64)
        share = size / size.sum()
        left = sum(entry.nbytes for entry in report.skipped)
        before = sum(weight.bytes_before for weight in report.weights)

        def mean(name: str) -> float:
            values = [getattr(weight, name) for weight in report.weights]
            return float((share * np.array(values)).sum())

        signal = sum(
            float(s) * w.l2 * 10 ** (w.sqnr / 10)
            for s, w in zip(share, report.weights, strict=True)
            if np.isfinite(w.sqnr)
        )
        return {
            **_accuracy(count(outputs, answers, reference)),
            "bytes": report.bytes_after,
            "compressed": before / (before + left),
            **{name: mean(name) for name in ("bits", "entropy", "l1", "l2")},
            "noise": mean("l2") / signal,
        }


def _accuracy(found: Any) -> dict[str, Any]:
    return {
        "images": found.images,
        "top1": found.top1 / found.images,
        "agreement": found.agreeing / found.images,
        "kl": found.kl / found.images,
    }


@lru_cache(maxsize=2)
def held_out(model: StudyModel) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the held-out images as the model takes them, and the right outputs."""
    return load_images(model, model.held_out, IMAGES)


@lru_cache(maxsize=2)
def float_outputs(model: StudyModel) -> NDArray[Any]:
    """Return the float network's outputs for the held-out images."""
    return _run(open_classifier(model.path, threads=1), held_out(model)[0])


def load_images(
    model: StudyModel, data: Path, limit: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return at most `limit` images float32 [n, c, h, w] as `model` takes them, and the outputs.

    Raises:
        QqonnxError: there are none, or their classes do not fit the model.
    """
    dataset = open_dataset(data, limit if limit < len(open_dataset(data).items) else None)
    classifier = open_classifier(model.path, threads=1)
    preprocessing, _ = for_model(classifier.metadata, classifier.size)
    parts = list(batches(dataset, preprocessing, 256))
    images = np.concatenate([part.images for part in parts])
    classes = classifier.run(images[:1]).shape[1]
    labels = np.concatenate([part.labels for part in parts])
    return images, output_indices(dataset, classes)[labels]


def _run(classifier: Any, images: NDArray[np.float32]) -> NDArray[Any]:
    step = 128
    parts = [classifier.run(images[at : at + step]) for at in range(0, len(images), step)]
    return np.concatenate(parts)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())

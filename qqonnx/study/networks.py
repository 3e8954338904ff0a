"""Accuracy of networks compressed by a scheme, measured on the compressed file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.compression.pipeline import compress
from qqonnx.config import Options
from qqonnx.evaluation.classifier import open_classifier
from qqonnx.evaluation.data import batches, open_dataset, output_indices
from qqonnx.evaluation.preprocessing import for_model
from qqonnx.evaluation.score import reference_outputs, score_models
from qqonnx.study.models import digest_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qqonnx.evaluation.data import Batch, Dataset
    from qqonnx.study.models import StudyModel
    from qqonnx.study.schemes import Scheme

IMAGES = 1000
"""Largest number of held-out images that accuracy is measured on."""

BATCH_SIZE = 128

FLOAT_BITS = 32


@dataclass(frozen=True)
class NetworkJob:
    """Measurement of one network, compressed or float.

    Attributes:
        model: the float network.
        scheme: how the network is compressed; None for the float network itself.
        bits: nominal bit-width of the scheme; 32 for the float network.
    """

    model: StudyModel
    scheme: Scheme | None
    bits: int

    @property
    def key(self) -> str:
        """Everything that the result depends on, except for versions."""
        scheme = (self.scheme.method, self.scheme.granularity) if self.scheme else ("float", "")
        content = digest_of(self.model.path, *_files(self.model.held_out))
        return f"network {content} {' '.join(scheme)} {self.bits} {IMAGES}"

    @property
    def cost(self) -> float:
        """Expected duration: the model's size in bytes, and a constant for starting."""
        return self.model.path.stat().st_size + 6e6

    def run(self) -> dict[str, Any]:
        """Return accuracy, agreement and KL on held-out images, and weight errors.

        Returns:
            images (number), top1 and agreement (shares), kl (mean, nats). For a compressed
            network also bytes, compressed (share of the parameters' bytes that belongs to
            compressed weights), and means over all entries of compressed weights: bits
            (stored), entropy (bits), l1, l2, noise (l2 divided by the mean square).
        """
        if self.scheme is None:
            return _accuracy(self.model, self.model.path, reference=None)
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
            accuracy = _accuracy(self.model, output, reference=float_outputs(self.model))
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
            **accuracy,
            "bytes": report.bytes_after,
            "compressed": before / (before + left),
            **{name: mean(name) for name in ("bits", "entropy", "l1", "l2")},
            "noise": mean("l2") / signal,
        }


def load_images(
    model: StudyModel, data: Path, limit: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return at most `limit` preprocessed images and the index of each image's correct output.

    Returns:
        Images float32 [n, channels, height, width] and indices int64 [n].

    Raises:
        QqonnxError: there are no images, or their classes do not fit the model.
    """
    dataset, parts = _batches(model, data, limit)
    images = np.concatenate([part.images for part in parts])
    classes = open_classifier(model.path, threads=1).run(images[:1]).shape[1]
    labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    return images, output_indices(dataset, classes)[labels]


@lru_cache(maxsize=2)
def held_out(model: StudyModel) -> tuple[Dataset, list[Batch]]:
    """Return the held-out images and their preprocessed batches."""
    return _batches(model, model.held_out, IMAGES)


@lru_cache(maxsize=2)
def float_outputs(model: StudyModel) -> list[NDArray[Any]]:
    """Return the float network's outputs for each batch of held-out images."""
    return reference_outputs(open_classifier(model.path, threads=1), held_out(model)[1])


def _batches(model: StudyModel, data: Path, limit: int) -> tuple[Dataset, list[Batch]]:
    dataset = open_dataset(data, limit)
    classifier = open_classifier(model.path, threads=1)
    preprocessing, _ = for_model(classifier.metadata, classifier.size)
    return dataset, list(batches(dataset, preprocessing, BATCH_SIZE))


def _accuracy(
    model: StudyModel, path: Path, reference: list[NDArray[Any]] | None
) -> dict[str, Any]:
    dataset, parts = held_out(model)
    classifier = open_classifier(path, threads=1)
    (score,), _ = score_models([classifier], dataset, parts, reference=reference)
    return {
        "images": score.samples,
        "top1": score.top1,
        "agreement": score.agreement,
        "kl": score.kl,
    }


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())

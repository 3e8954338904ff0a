"""Accuracy of networks compressed by a scheme, measured on the compressed file."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.compression.pipeline import compress
from qqonnx.config import Options
from qqonnx.errors import QqonnxError
from qqonnx.evaluation.loaded import load_model
from qqonnx.evaluation.samples import image_samples
from qqonnx.evaluation.score import class_outputs, reference_outputs, score_models
from qqonnx.inputs.dataset import batches, open_dataset, output_indices
from qqonnx.inputs.preprocessing import for_model
from qqonnx.study.jobs import Measurement
from qqonnx.study.schemes import ALL, KMEANS, PAPER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qqonnx.evaluation.loaded import Outputs
    from qqonnx.evaluation.samples import Samples
    from qqonnx.inputs.dataset import Batch, Dataset
    from qqonnx.study.models import StudyModel
    from qqonnx.study.results import Row
    from qqonnx.study.schemes import Scheme

    Bits = Sequence[int]

IMAGES = 1000
"""Largest number of held-out images that accuracy is measured on."""

BATCH_SIZE = 128

FLOAT_BITS = 32


def network_jobs(model: StudyModel, core_bits: Bits, other_bits: Bits) -> list[Measurement]:
    """Return a `measure_network` job for the float network, and for each scheme and bit-width.

    Args:
        model: the network.
        core_bits: bit-widths of the paper's schemes and k-means.
        other_bits: bit-widths of the other schemes.
    """
    choices: list[tuple[Scheme | None, int]] = [(None, FLOAT_BITS)]
    for scheme in ALL:
        widths = core_bits if scheme in (*PAPER, KMEANS) else other_bits
        choices += [(scheme, bits) for bits in widths if scheme.levels_at(bits) is not None]
    # Loading and running take time for any network.
    cost = model.path.stat().st_size + 6e6
    return [Measurement(measure_network, (model, *choice), cost) for choice in choices]


def measure_network(model: StudyModel, scheme: Scheme | None, bits: int) -> Row:
    """Measure a network, compressed or float, on held-out images.

    Args:
        model: the float network.
        scheme: how the network is compressed; None for the float network itself.
        bits: nominal bit-width of the scheme; 32 for the float network.

    Returns:
        model, label, data, scheme and bits; images (number), top1 and agreement (shares), kl
        (mean, nats). For a compressed network also bytes, compressed (share of the parameters'
        bytes that belongs to compressed weights), and means over all entries of compressed
        weights: stored (bits), entropy (bits), l1, l2, noise (l2 divided by the mean square).
    """
    row: Row = {
        "model": model.name,
        "label": model.label,
        "data": model.data,
        "scheme": scheme.key if scheme else None,
        "bits": bits,
    }
    if scheme is None:
        return row | _accuracy(model, model.path, reference=None)
    with tempfile.TemporaryDirectory(prefix="qqonnx-") as folder:
        output = Path(folder) / "small.onnx"
        options = Options(
            method=scheme.method,
            bits=bits,
            granularity=scheme.granularity,
            include_bias=True,
            min_size=0,
        )
        report = compress(model.path, output, options, threads=1)
        accuracy = _accuracy(model, output, reference=float_outputs(model))
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
        **row,
        **accuracy,
        "bytes": report.bytes_after,
        "compressed": before / (before + left),
        "stored": mean("bits"),
        **{name: mean(name) for name in ("entropy", "l1", "l2")},
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
    outputs = class_outputs(load_model(model.path, threads=1).run({"images": images[:1]}), 1)
    if outputs is None:
        raise QqonnxError(f"{model.path}: has no output [samples, classes]")
    labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    return images, output_indices(dataset, outputs.shape[1])[labels]


@lru_cache(maxsize=2)
def held_out(model: StudyModel) -> Samples:
    """Return the held-out images, preprocessed once."""
    dataset, parts = _batches(model, model.held_out, IMAGES)
    return image_samples(dataset, lambda: parts)


@lru_cache(maxsize=2)
def float_outputs(model: StudyModel) -> list[Outputs]:
    """Return the float network's outputs for each batch of held-out images."""
    return reference_outputs(load_model(model.path, threads=1), held_out(model))


def _batches(model: StudyModel, data: Path, limit: int) -> tuple[Dataset, list[Batch]]:
    dataset = open_dataset(data, limit)
    loaded = load_model(model.path, threads=1)
    preprocessing, _ = for_model(loaded.metadata, loaded.size)
    return dataset, list(batches(dataset, preprocessing, BATCH_SIZE))


def _accuracy(model: StudyModel, path: Path, reference: list[Outputs] | None) -> dict[str, Any]:
    network = load_model(path, threads=1)
    (score,) = score_models([network], held_out(model), reference=reference).scores
    return {
        "images": score.samples,
        "top1": score.top1,
        "agreement": score.agreement,
        "kl": score.kl,
    }

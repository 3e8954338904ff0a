"""What models are evaluated on: images that are read on demand, or inputs of any form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.plugins import LABELS
from qqonnx.functions import is_function_name
from qqonnx.inputs.dataset import SUFFIXES, batches, open_dataset, output_indices
from qqonnx.inputs.images import holds_images as is_image_file
from qqonnx.inputs.preprocessing import for_model, from_json
from qqonnx.inputs.read import feed_samples, read_inputs
from qqonnx.model.load import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from qqonnx.evaluation.loaded import LoadedModel
    from qqonnx.inputs.dataset import Batch, Dataset
    from qqonnx.inputs.feeds import Feed
    from qqonnx.inputs.preprocessing import Preprocessing
    from qqonnx.inputs.read import InputData

BATCH_SIZE = 32


@dataclass(frozen=True)
class LabeledFeed:
    """Inputs of one run.

    Attributes:
        feed: arrays by name of the input.
        samples: number of samples.
        labels: index of each sample's class, int64 [samples]; None without labels.
        others: what else the data hold for this run, by name.
        unreadable: names of image files that could not be read and are left out.
    """

    feed: Feed
    samples: int
    labels: NDArray[np.int64] | None = None
    others: Mapping[str, Any] | None = None
    unreadable: tuple[str, ...] = ()

    @property
    def everything(self) -> dict[str, Any]:
        """Inputs, labels and what else the data hold, by name."""
        labels = {} if self.labels is None else {LABELS: self.labels}
        return {**self.feed, **labels, **(self.others or {})}


@dataclass(frozen=True)
class Samples:
    """What models are evaluated on.

    Attributes:
        name: what messages call the data.
        count: number of samples.
        unit: "images", "samples" or "runs".
        feeds: function that yields the inputs of each run; it may be called several times.
        dataset: the images; None for other inputs.
        preprocessing: preprocessing of the images; None for other inputs.
        preprocessing_source: where it comes from.
    """

    name: str
    count: int
    unit: str
    feeds: Callable[[], Iterator[LabeledFeed]]
    dataset: Dataset | None = None
    preprocessing: Preprocessing | None = None
    preprocessing_source: str = ""

    def targets(self, labels: NDArray[np.int64], outputs: int) -> NDArray[np.int64]:
        """Return the index of each label's output.

        Raises:
            QqonnxError: the labels do not fit `outputs` outputs.
        """
        if self.dataset is not None:
            return output_indices(self.dataset, outputs)[labels]
        if labels.min() < 0 or labels.max() >= outputs:
            raise QqonnxError(
                f"{self.name}: label {labels.max()}, but the model has {outputs} outputs"
            )
        return labels


def open_samples(
    model: LoadedModel,
    data: InputData,
    *,
    preprocessing: str | None = None,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
) -> Samples:
    """Open data of any form for a model.

    Args:
        model: the model whose inputs the data must fit.
        data: a folder of images, with one folder per class if they have labels; an .npz file with
            `images` uint8; or other inputs, as `read_inputs` takes them. Arrays beside the
            inputs are kept; `labels` are the samples' classes.
        preprocessing: JSON of the preprocessing of images; by default that of the model.
        batch_size: number of images per run, unless the model fixes it.
        limit: largest number of samples, evenly spaced for images; None for all.

    Raises:
        QqonnxError: the data cannot be read, or do not fit the model's inputs.
        OptionError: `limit` is less than 1.
    """
    if isinstance(data, (str, os.PathLike)) and holds_images(data):
        if not model.images:
            raise QqonnxError(f"{data}: holds images, but {model.path} takes no batch of images")
        dataset = open_dataset(Path(data), limit, labels_required=False)
        if preprocessing is not None:
            steps, source = from_json(preprocessing), "as given"
        else:
            steps, source = for_model(model.metadata, model.size)
        size = model.batch or batch_size
        return image_samples(dataset, lambda: batches(dataset, steps, size), steps, source)
    if preprocessing is not None:
        raise QqonnxError(f"preprocessing is for images, and {data} holds none")
    inputs = read_inputs(read(model.path), data, limit or 2**62)
    feeds = [_labeled(*run) for run in zip(inputs.feeds, inputs.others, strict=True)]
    name = str(data) if isinstance(data, (str, os.PathLike)) else "the inputs"
    unit = "runs" if inputs.batch_size == 1 else "samples"
    return Samples(name, sum(feed.samples for feed in feeds), unit, lambda: iter(feeds))


def first_feed(samples: Samples) -> Feed:
    """Return the inputs of the first run; of images, the first one.

    Raises:
        QqonnxError: no image can be read.
    """
    for run in samples.feeds():
        if run.samples:
            images = samples.dataset is not None
            return {n: array[:1] if images else array for n, array in run.feed.items()}
    raise QqonnxError(f"{samples.name}: none of its {samples.count} images can be read")


def image_samples(
    dataset: Dataset,
    read_batches: Callable[[], Iterable[Batch]],
    preprocessing: Preprocessing | None = None,
    source: str = "",
) -> Samples:
    """Return images for evaluation.

    Args:
        dataset: the images.
        read_batches: function that yields the preprocessed images.
        preprocessing: their preprocessing.
        source: where the preprocessing comes from.
    """

    def feeds() -> Iterator[LabeledFeed]:
        for batch in read_batches():
            count = len(batch.images)
            yield LabeledFeed({"images": batch.images}, count, batch.labels, None, batch.unreadable)

    count, name = len(dataset.items), str(dataset.path)
    return Samples(name, count, "images", feeds, dataset, preprocessing, source)


def holds_images(data: str | os.PathLike[str]) -> bool:
    """Return whether data are a folder of images, or an .npz file with `images` uint8."""
    path = Path(data)
    if is_function_name(str(data)) or not path.is_dir():
        return is_image_file(path)
    return any(file.suffix.lower() in SUFFIXES for file in path.rglob("*"))


def _labeled(feed: Feed, others: Mapping[str, Any]) -> LabeledFeed:
    lengths = {len(array) for array in feed.values() if array.ndim}
    samples = feed_samples(feed) if len(lengths) == 1 else 1
    labels: Any = others.get(LABELS)
    fits = isinstance(labels, np.ndarray) and labels.dtype.kind in "iu"
    if not fits or labels.shape != (samples,):
        labels = None
    return LabeledFeed(feed, samples, labels, others)

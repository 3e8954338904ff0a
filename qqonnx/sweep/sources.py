"""Models, data sets and metrics of a sweep, each with a digest of what determines results."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qqonnx.digests import file_digest
from qqonnx.errors import QqonnxError
from qqonnx.evaluation.plugins import find_metric
from qqonnx.functions import importable
from qqonnx.inputs.feeds import feeds_of_function
from qqonnx.model.load import model_files, read


@dataclass(frozen=True)
class Source:
    """A model, a data set or a metric.

    Attributes:
        name: its name in the results.
        path: its file or folder; for a function, the folder in which its module is looked for.
        digest: SHA-256 in hexadecimal digits; for a folder, of the files' names and sizes; for a
            function that yields data, of the data; for a metric, of its module's file.
        function: module:function, or the name of an entry point; None for a file or folder.
    """

    name: str
    path: Path
    digest: str
    function: str | None = None

    @property
    def data(self) -> Path | str:
        """The data, as `qqonnx.inputs.read_inputs` takes them."""
        return self.path if self.function is None else self.function


def source_of(data: Path | str, folder: Path) -> Source:
    """Return a file, a folder or a function that yields data, with its digest.

    Args:
        data: the path, or module:function.
        folder: where modules are looked for.

    Raises:
        QqonnxError: it does not exist, or the function raises an error.
    """
    if isinstance(data, Path):
        return Source(data.name, data, digest_of(data))
    return Source(data, folder, digest_of_feeds(data, folder), data)


def metric_source(name: str, folder: Path) -> Source:
    """Return a metric with the digest of its module's file.

    Args:
        name: module:function, or the name of an entry point.
        folder: where modules are looked for.

    Raises:
        QqonnxError: there is no such metric.
    """
    with importable([folder]):
        metric = find_metric(name)
        file = inspect.getsourcefile(inspect.unwrap(metric.function))
    return Source(metric.name, folder, digest_of(Path(file)) if file else "", name)


def digest_of_feeds(function: str, folder: Path) -> str:
    """Return the SHA-256 of what a function yields: names, types, shapes and values.

    Raises:
        QqonnxError: there is no such function, or it raises an error.
    """
    digest = hashlib.sha256()
    with importable([folder]):
        for feed in feeds_of_function(function):
            for name, value in sorted(feed.items()):
                array = np.asarray(value)
                digest.update(f"{name}\0{array.dtype}\0{array.shape}\n".encode())
                digest.update(repr(value).encode() if array.dtype == object else array.tobytes())
    return digest.hexdigest()


def model_source(path: Path) -> Source:
    """Return a model with the digest of its file and external data.

    Raises:
        QqonnxError: the model cannot be read.
    """
    return Source(path.stem, path, model_digest(path))


def model_digest(path: Path) -> str:
    """Return the SHA-256 of a model's file; with external data, of the files' digests.

    Raises:
        QqonnxError: the model cannot be read.
    """
    digests = [digest_of(file) for file in model_files(read(path), path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and sizes of a folder's files.

    Raises:
        QqonnxError: it does not exist or cannot be read.
    """
    try:
        if not path.is_dir():
            return file_digest(path)
        digest = hashlib.sha256()
        # Reading every image of a large data set would take too long.
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            line = f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\n"
            digest.update(line.encode())
    except OSError as error:
        raise QqonnxError(f"{path}: {error.strerror or error}") from error
    return digest.hexdigest()

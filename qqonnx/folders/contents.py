"""The files of a folder: models, the external data that belongs to them, and everything else."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.digests import file_digest
from qqonnx.errors import QqonnxError
from qqonnx.model.load import model_files, read
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STATE_FILE = ".qqonnx.json"
"""File in the output folder that says what its files were made from."""

UNFINISHED = ".qqonnx-unfinished"
"""Folder in the output folder that holds files until they are complete."""

NOT_CONTENT = frozenset({".git", ".cache", "__pycache__", STATE_FILE, UNFINISHED})
"""Names of files and folders that are no content: version control, caches, and our own."""


@dataclass(frozen=True)
class SourceModel:
    """A model in the folder.

    Attributes:
        path: path of the ONNX file, relative to the folder.
        data: paths of the files of its external data, relative to the folder.
        nbytes: bytes of the ONNX file and of its external data.
        error: why the model cannot be read; None if it can.
    """

    path: Path
    data: tuple[Path, ...]
    nbytes: int
    error: str | None = None


@dataclass(frozen=True)
class Contents:
    """The content of a folder; paths are relative to it, and sorted.

    Attributes:
        models: the ONNX files.
        others: all other files, the external data of models too.
    """

    models: tuple[SourceModel, ...]
    others: tuple[Path, ...]


@contextmanager
def without_links(folder: Path, left_out: Path) -> Iterator[Path]:
    """Give a folder with the same files, none of which is a symbolic link.

    A hub's cache has a folder of links into a folder `blobs` beside it. External data may be
    reached by no link, neither a symbolic nor a hard one, so such a folder is copied.

    Raises:
        QqonnxError: a link leads out of the folder, but not into a hub's `blobs`.
        OSError: the folder cannot be read.
    """
    files = sorted(_files(folder, folder, left_out.resolve()))
    if not any((folder / path).is_symlink() for path in files):
        yield folder
        return
    allowed = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    with temporary_folder() as real:
        for path in files:
            content = (folder / path).resolve()
            if not any(content.is_relative_to(place) for place in allowed):
                raise QqonnxError(f"{folder / path}: a link out of the folder, to {content}")
            (real / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content, real / path)
        yield real


def contents_of(folder: Path, left_out: Path) -> Contents:
    """Return the files of a folder and of the folders in it.

    Args:
        folder: the folder.
        left_out: a folder whose content is not listed, for an output folder inside `folder`.

    Raises:
        QqonnxError: the folder cannot be read.
    """
    try:
        files = sorted(_files(folder, folder, left_out.resolve()))
        models = tuple(_model(folder, path) for path in files if path.suffix == ".onnx")
    except OSError as error:
        raise QqonnxError(f"{error.filename or folder}: {error.strerror}") from error
    return Contents(models, tuple(path for path in files if path.suffix != ".onnx"))


def digest(files: Iterable[Path]) -> str:
    """Return a digest of the names and the contents of files.

    Raises:
        OSError: a file cannot be read.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{file_digest(file)}\n".encode())
    return total.hexdigest()


def _files(root: Path, folder: Path, left_out: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = Path(entry.path)
        if entry.name in NOT_CONTENT or path.resolve() == left_out:
            continue
        # A link to a folder may be a loop.
        if entry.is_dir(follow_symlinks=False):
            yield from _files(root, path, left_out)
        elif entry.is_file():
            yield path.relative_to(root)


def _model(folder: Path, path: Path) -> SourceModel:
    try:
        _, *data = model_files(read(folder / path), folder / path)
    except QqonnxError as error:
        return SourceModel(path, (), (folder / path).stat().st_size, str(error))
    nbytes = sum(file.stat().st_size for file in (folder / path, *data))
    return SourceModel(path, tuple(file.relative_to(folder) for file in data), nbytes)

"""The float models of the study: trained once, then kept in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.cache import cache_folder
from qqonnx.study.data import write_npz
from qqonnx.study.reference import RECIPES, recipe_text, train_reference
from qqonnx.temporary import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qqonnx.study.data import ImageSet


@dataclass(frozen=True)
class StudyModel:
    """A float model that the study compresses.

    Attributes:
        name: a short name without spaces.
        label: its name in figures.
        path: the ONNX file.
        held_out: .npz file with the images that accuracy is measured on.
        calibration: .npz file with other images, for calibration and activations.
        data: name of the images.
    """

    name: str
    label: str
    path: Path
    held_out: Path
    calibration: Path
    data: str

    @cached_property
    def digest(self) -> str:
        """A digest of the ONNX file, the images and all attributes."""
        files = [file for data in (self.held_out, self.calibration) for file in _files(data)]
        return digest_of(self.path, repr(self), *files)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def digest_of(*parts: bytes | str | Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of all parts; a path stands for its content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            content = part.read_bytes()
        else:
            content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:16]


def reference_models(
    images: ImageSet,
    names: Sequence[str],
    folder: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[StudyModel]:
    """Return the reference models; train those that are not in the cache.

    Args:
        images: images to train on.
        names: keys of `RECIPES`.
        folder: folder of the models; by default in the study's `cache_folder`. Digests of the
            images and of the recipe are part of a model's path, so a cached model is always the
            one that would be trained.
        progress: called with a model's name, the number of steps just done, and the total.

    Raises:
        QqonnxError: PyTorch is not installed, or an export fails.
    """
    parts = images.training + images.held_out
    arrays = [array.tobytes() for array in parts]
    home = (folder or cache_folder("study") / "models") / digest_of(*arrays)
    held_out, calibration = write_splits(images, home)
    models = []
    for name in names:
        path = home / f"{name}-{digest_of(recipe_text(name))}.onnx"
        if not path.exists():
            train_reference(name, images, path, partial(progress, name))
        label = RECIPES[name].label
        models.append(StudyModel(name, label, path, held_out, calibration, images.name))
    return models


def write_splits(images: ImageSet, folder: Path) -> tuple[Path, Path]:
    """Write held-out and training images to `folder` unless they exist; return the two files."""
    folder.mkdir(parents=True, exist_ok=True)
    held_out, training = folder / "held_out.npz", folder / "training.npz"
    for path, split in ((held_out, images.held_out), (training, images.training)):
        if not path.exists():
            with atomic_write(path) as target:
                write_npz(target, split)
    return held_out, training

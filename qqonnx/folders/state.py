"""What a run on a folder has finished: a later run with the same command goes on from there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.quality import OutputQuality
from qqonnx.folders.contents import STATE_FILE, digest
from qqonnx.folders.results import FolderModel
from qqonnx.temporary import atomic_write
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qqonnx.folders.rules import Settings

State = dict[str, dict[str, Any]]
"""Path of a written model -> what it was made from, what was written, and how it turned out."""


def read_state(folder: Path) -> State:
    """Return the state of an output folder; empty if there is none, or a damaged one."""
    try:
        content = json.loads((folder / STATE_FILE).read_text("utf-8"))
        return {name: dict(entry) for name, entry in content["models"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_state(folder: Path, state: State) -> None:
    """Replace the state of an output folder.

    Raises:
        QqonnxError: the file cannot be written.
    """
    path = folder / STATE_FILE
    content = {"version": __version__, "models": dict(sorted(state.items()))}
    try:
        with atomic_write(path) as written:
            written.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise QqonnxError(f"{path}: cannot write: {error.strerror}") from error


def made_from(source: list[Path], settings: Settings, others: Mapping[str, object]) -> str:
    """Return a digest of all that determines the output: model, options and calibration inputs.

    Raises:
        OSError: a file cannot be read.
    """
    calibration = settings.calibration
    inputs = []
    if calibration is not None and isinstance(calibration.data, str):
        data = Path(calibration.data)
        inputs = sorted(data.rglob("*")) if data.is_dir() else [data]
    parts = (
        __version__,
        digest(source),
        digest([file for file in inputs if file.is_file()]),
        str(settings.options),
        str(calibration),
        str(sorted(others.items())),
    )
    return "\n".join(parts)


def finished(model: FolderModel, source: str, folder: Path) -> dict[str, Any]:
    """Return the entry of a model that has been written."""
    return {
        "source": source,
        "files": [path.as_posix() for path in model.files],
        "digest": digest(folder / path for path in model.files),
        "bytes_before": model.bytes_before,
        "quality": asdict(model.quality) if model.quality is not None else None,
    }


def unchanged(
    entry: dict[str, Any] | None, path: Path, source: str, folder: Path
) -> FolderModel | None:
    """Return a model that need not be compressed again; None if it has to be."""
    try:
        if entry is None or entry["source"] != source:
            return None
        files = tuple(Path(name) for name in entry["files"])
        if digest(folder / file for file in files) != entry["digest"]:
            return None
        quality = entry["quality"]
        return FolderModel(
            path=path,
            state="unchanged",
            bytes_before=entry["bytes_before"],
            files=files,
            bytes_after=sum((folder / file).stat().st_size for file in files),
            quality=_quality(quality) if quality is not None else None,
        )
    except (OSError, KeyError, TypeError):
        return None


def _quality(content: Mapping[str, Any]) -> OutputQuality:
    # JSON has no tuples.
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return OutputQuality(**fields)

"""What became of the models of a folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from qqonnx.compression.results import CompressReport
    from qqonnx.evaluation.quality import OutputQuality


@dataclass(frozen=True)
class FolderModel:
    """What became of one model.

    Attributes:
        path: path of the model in the folder.
        state: "compressed"; "unchanged", if the output folder had it already; "copied" as it is,
            with a reason; or "failed", with a reason.
        bytes_before: bytes of the model and of its external data.
        files: the ONNX file in the output folder, and the file of its external data; relative
            paths. Empty if it failed.
        bytes_after: bytes of these files; None if it failed.
        quality: quality of the output that lost most; None if the outputs could not be compared.
        run_ratio: time of a run divided by that of the original model; None if not measured.
        reason: why the model was copied, or failed.
        report: the full report of a model that was compressed in this run.
    """

    path: Path
    state: Literal["compressed", "unchanged", "copied", "failed"]
    bytes_before: int
    files: tuple[Path, ...] = ()
    bytes_after: int | None = None
    quality: OutputQuality | None = None
    run_ratio: float | None = None
    reason: str | None = None
    report: CompressReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result, without the full report, for JSON."""
        return {
            **{name: value for name, value in vars(self).items() if name != "report"},
            "path": self.path.as_posix(),
            "files": [file.as_posix() for file in self.files],
            "quality": asdict(self.quality) if self.quality is not None else None,
        }


@dataclass(frozen=True)
class FolderReport:
    """What `compress_folder` made.

    Attributes:
        path: the output folder.
        models: the models of the folder.
        copied: paths of other files that were copied in this run.
        kept: paths of other files that were there already, with the same content.
        bytes_before: bytes of all files of the folder.
        bytes_after: bytes of the files that belong to them in the output folder.
    """

    path: Path
    models: tuple[FolderModel, ...]
    copied: tuple[Path, ...]
    kept: tuple[Path, ...]
    bytes_before: int
    bytes_after: int

    @property
    def failed(self) -> tuple[FolderModel, ...]:
        """The models that could not be compressed."""
        return tuple(model for model in self.models if model.state == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "path": str(self.path),
            "models": [model.to_dict() for model in self.models],
            "copied": [path.as_posix() for path in self.copied],
            "kept": [path.as_posix() for path in self.kept],
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }

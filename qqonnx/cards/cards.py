"""The card of a compressed file, of a folder, and of an evaluation."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from qqonnx.cards.markdown import file_rows, how_to_load, made_with, table, write_card
from qqonnx.model.load import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from qqonnx.compression.results import CompressReport
    from qqonnx.evaluation.quality import OutputQuality
    from qqonnx.evaluation.results import Evaluation
    from qqonnx.folders.results import FolderReport

_FILES = ("file", "bytes", "SHA-256")
_QUALITY = ("output", "samples", "agreement %", "KL nats", "relative error %", "cosine")
_SHARES = ("top1", "top5", "agreement", "relative_error")


def write_file_card(
    path: Path, report: CompressReport, source: Path, label: str, command: str | None = None
) -> None:
    """Write the card of a compressed file.

    Args:
        path: the Markdown file to write.
        report: what `compress` returned; it wrote a file.
        source: the original model.
        label: what the original model is called.
        command: the command that made the file.

    Raises:
        QqonnxError: the card cannot be written.
    """
    assert report.path is not None
    files = [*file_rows(source, label), *file_rows(report.path)]
    smaller = _smaller(report.bytes_before, report.bytes_after)
    write_card(
        path,
        [
            f"# {report.path.name}",
            f"Compressed by qqonnx: {smaller} than {label}.",
            "## How it was made",
            made_with(command),
            _made_of(report),
            "## Files",
            table(_FILES, files),
            "## Quality",
            *_quality(report),
            "## How to load it",
            how_to_load(report.path.name, standard=_is_standard(report.path)),
        ],
    )


def write_folder_card(path: Path, report: FolderReport, command: str | None = None) -> None:
    """Write the card of a folder.

    Args:
        path: the Markdown file to write.
        report: what `compress_folder` returned.
        command: the command that made the folder.

    Raises:
        QqonnxError: the card cannot be written.
    """
    written = [model for model in report.models if model.files]
    sizes = [
        [model.path.as_posix(), model.state, f"{model.bytes_before:,}", f"{model.bytes_after:,}"]
        for model in written
    ]
    compared = [(model.files[0].as_posix(), model.quality) for model in written if model.quality]
    quality = [[f"{name}: {row[0]}", *row[1:]] for name, q in compared for row in _rows([q])]
    first = [model.files[0] for model in written[:1]]
    digests = [row for model in written for row in file_rows(report.path / model.files[0])]
    write_card(
        path,
        [
            f"# {report.path.name}",
            f"Compressed by qqonnx: {_smaller(report.bytes_before, report.bytes_after)} than the "
            "original folder.",
            "## How it was made",
            made_with(command),
            "## Models",
            table(("model", "", "bytes before", "after"), sizes),
            table(_FILES, digests),
            "## Quality",
            "The output of each model that lost most, against the original model:",
            table(_QUALITY, quality),
            "## How to load it",
            *(how_to_load(str(file), standard=_is_standard(report.path / file)) for file in first),
        ],
    )


def write_evaluation_card(
    path: Path, result: Evaluation, models: Sequence[Path], command: str | None = None
) -> None:
    """Write the card of an evaluation.

    Args:
        path: the Markdown file to write.
        result: what `evaluate` returned.
        models: the models that were evaluated, the baseline too.
        command: the command that evaluated them.

    Raises:
        QqonnxError: the card cannot be written.
    """
    rows = [row.numbers() for row in result.rows]
    columns = [name for name in dict.fromkeys(n for row in rows for n in row)
               if any(row.get(name) is not None for row in rows)]  # fmt: skip
    body = [
        [row.model, *(_number(name, numbers.get(name)) for name in columns)]
        for row, numbers in zip(result.rows, rows, strict=True)
    ]
    titles = [f"{name} %" if name in _SHARES else name for name in columns]
    files = [row for model in models for row in file_rows(model)]
    write_card(
        path,
        [
            "# Evaluation",
            made_with(command),
            *([f"Data: {result.data}."] if result.data else []),
            table(["model", *titles], body),
            *result.interval_lines(),
            "Ratios of time compare with the first model, measured in turns on this machine.",
            "## Files",
            table(_FILES, files),
        ],
    )


def _smaller(before: int, after: int) -> str:
    return f"{before / max(after, 1):.2f} times smaller"


def _made_of(report: CompressReport) -> str:
    """Return how the weights are stored, and what calibrated them."""
    kinds = Counter(
        f"{w.levels} levels ({w.bits:.3g} bits), {w.method}, granularity {w.granularity}"
        for w in report.weights
    )
    lines = [f"- {count} weights: {kind}" for kind, count in kinds.most_common()]
    if report.skipped:
        nbytes = sum(entry.nbytes for entry in report.skipped)
        lines.append(f"- {len(report.skipped)} float tensors as they were: {nbytes:,} bytes")
    calibration = report.calibration or "none; the weights alone decided"
    return "\n".join([*lines, f"- calibration: {calibration}"])


def _quality(report: CompressReport) -> list[str]:
    quality = report.quality
    if quality.reason is not None:
        return [f"Not compared with the original model: {quality.reason}."]
    rows = _rows(quality.outputs)
    left_out = [f"- {output.name} not compared: {output.reason}" for output in quality.uncompared]
    heading = f"Against the original model, on {quality.source}:"
    return [heading, table(_QUALITY, rows), *filter(None, ["\n".join(left_out)])]


def _rows(outputs: Iterable[OutputQuality]) -> list[list[str]]:
    return [
        [
            output.name,
            str(output.samples),
            "" if output.agreement is None else f"{100 * output.agreement:.1f}",
            "" if output.kl is None else f"{output.kl:.4f}",
            f"{100 * output.relative_error:.2f}",
            f"{output.cosine:.5f}",
        ]
        for output in outputs
    ]


def _number(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{100 * value:.2f}" if name in _SHARES else f"{value:.4g}"


def _is_standard(model: Path) -> bool:
    return all(node.domain in ("", "ai.onnx") for node in read(model).graph.all_nodes())

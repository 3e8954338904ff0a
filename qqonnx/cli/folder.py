"""`convert-model FOLDER`: options that are for a folder only, and its table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from qqonnx.cli.memory import limited_memory
from qqonnx.cli.terminal import command_line, print_json, progress_bar, stages, table_console
from qqonnx.errors import OptionError, QqonnxError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

    from qqonnx.config import Calibration, Options
    from qqonnx.evaluation.quality import OutputQuality
    from qqonnx.folders.results import FolderReport

RULES = typer.Option(
    "--options", help="For a folder: TOML file of options by the name of a model.", dir_okay=False
)
NAME = typer.Option(
    "--name",
    help="For a folder: dtype of transformers.js that finds the files, such as q4 (model_q4.onnx), "
    "q8 or int8; or a suffix such as _small.",
)


def convert_folder(
    folder: Path,
    output: Path,
    options: Options,
    calibration: Calibration | None,
    *,
    rules: Path | None,
    name: str | None,
    runtime_min: str | None,
    threads: int | None,
    card: Path | None,
    as_json: bool,
    quiet: bool,
    refused: Mapping[str, bool],
) -> None:
    """Compress a folder, print its table, and exit with code 2 if a model failed.

    Args:
        folder: the folder.
        output: the output folder.
        options: how weights are compressed.
        calibration: how levels are calibrated.
        rules: TOML file of options by the name of a model.
        name: data type or suffix of the files' names.
        runtime_min: the oldest ONNX Runtime.
        threads: number of threads.
        card: file of a model card to write.
        as_json: whether JSON is printed.
        quiet: whether nothing is printed.
        refused: options of a single model, and whether they are given.
    """
    from qqonnx.folders.compress import compress_folder

    for option, given in refused.items():
        if given:
            raise OptionError(option, "is for one model, not for a folder")
    with limited_memory(_bytes(folder)), progress_bar(quiet or as_json) as progress:
        report = compress_folder(
            folder,
            output,
            options,
            calibration=calibration,
            rules=rules,
            name=name,
            runtime_min=runtime_min,
            threads=threads,
            timings=not quiet,
            progress=stages(progress),
        )
    if card is not None:
        from qqonnx.cards.cards import write_folder_card

        write_folder_card(card, report, command_line())
    if as_json:
        print_json(report.to_dict())
    elif not quiet:
        folder_summary(report, table_console())
    for model in report.failed:
        print(f"error: {_named(model.path, model.reason)}", file=sys.stderr)  # noqa: T201
    if report.failed:
        raise typer.Exit(2)


def folder_summary(report: FolderReport, console: Console) -> None:
    """Print one row per model, and what became of the other files."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", overflow="fold")
    for column in ("bytes before", "after", "times smaller"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("worst output")
    table.add_column("run ×", justify="right", no_wrap=True)
    for model in report.models:
        after = model.bytes_after
        table.add_row(
            escape(printable(str(model.files[0] if model.files else model.path))),
            f"{model.bytes_before:,}",
            "" if after is None else f"{after:,}",
            f"{model.bytes_before / after:.2f}" if after else "",
            escape(_outcome(model.state, model.quality, model.reason)),
            "" if model.run_ratio is None else f"{model.run_ratio:.2f}",
        )
    console.print(table)
    console.print(
        f"other files: {len(report.copied)} copied, {len(report.kept)} there already\n"
        f"{report.path}: {report.bytes_after:,} bytes, "
        f"{report.bytes_before / max(report.bytes_after, 1):.2f} times smaller than "
        f"{report.bytes_before:,}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _outcome(state: str, quality: OutputQuality | None, reason: str | None) -> str:
    if state in ("copied", "failed"):
        return f"{state}: {printable(reason)}" if reason else state
    if quality is None:
        return f"not compared: {printable(reason or 'no output')}"
    parts = [f"{printable(quality.name)}: error {100 * quality.relative_error:.1f} %"]
    if quality.agreement is not None:
        parts.append(f"agreement {100 * quality.agreement:.1f} %")
    parts.append(f"cosine {quality.cosine:.4f}")
    if quality.is_poor:
        parts.append("lost much")
    return ", ".join(parts + ["unchanged"] * (state == "unchanged"))


def _named(path: Path, reason: str | None) -> str:
    text = reason or "failed"
    return text if path.name in text else f"{path}: {text}"


def _bytes(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError as error:
        raise QqonnxError(f"{error.filename or folder}: {error.strerror}") from error

"""`qqonnx evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qqonnx.cli.terminal import (
    JSON,
    QUIET,
    parallel_stages,
    print_json,
    progress_bar,
    table_console,
)
from qqonnx.errors import QqonnxError


def evaluate(
    models: Annotated[list[Path], typer.Argument(help="ONNX image classifiers.")],
    data: Annotated[
        Path, typer.Option(help="Folder with one folder of images per class, or an .npz file.")
    ],
    baseline: Annotated[Path | None, typer.Option(help="Float model to compare with.")] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option(
            help="JSON file: resize, crop, interpolation, mean, std.",
            show_default="model's metadata",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per batch.", min=1)] = 32,
    limit: Annotated[
        int | None, typer.Option(help="Number of images.", show_default="all", min=1)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads per run.", show_default="cores", min=1)
    ] = None,
    as_json: Annotated[bool, JSON] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Measure accuracy, agreement with BASELINE, size, load time and latency."""
    from qqonnx.cli.tables import unreadable_summary
    from qqonnx.evaluation import evaluate as evaluate_models

    with progress_bar(quiet) as progress:
        advance = parallel_stages(progress)
        result = evaluate_models(
            models,
            data,
            baseline=baseline,
            preprocessing=_read(preprocessing) if preprocessing else None,
            batch_size=batch_size,
            limit=limit,
            threads=threads,
            progress=lambda images, total: advance("images", images, total),
        )
    unreadable_summary(result.unreadable, Console(stderr=True))
    if as_json:
        print_json(result.to_dict())
    elif as_csv:
        sys.stdout.write(result.to_csv())
    else:
        table_console().print(result.table())
        typer.echo(f"{result.rows[0].images} images; preprocessing: {result.preprocessing_source}")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QqonnxError(f"{path}: cannot be read: {error}") from error

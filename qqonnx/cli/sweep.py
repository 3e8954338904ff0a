"""`qqonnx sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qqonnx.cli.terminal import (
    CARD,
    JSON,
    QUIET,
    command_line,
    parallel_stages,
    print_json,
    progress_bar,
)
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from qqonnx.sweep.sweep import Summary


def sweep(
    config: Annotated[
        Path,
        typer.Argument(help="sweep.toml; or a results file, which is only exported."),
    ],
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes, at most and by default cores / threads.", min=1),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Use the workers of this Dask scheduler, e.g. tcp://host:8786."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry runs that failed before.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(help="Export the results to a file beside them: csv, json or parquet."),
    ] = None,
    card: Annotated[Path | None, CARD] = None,
    as_json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Run a grid of models, methods, bits or budgets, data sets and baselines.

    Only runs that are missing in the results file are executed, so an interrupted sweep continues.
    """
    from qqonnx.sweep.config import read_config
    from qqonnx.sweep.export import FORMATS, export_results

    if export is not None and export not in FORMATS:
        raise QqonnxError(f"--export {export}: must be one of {', '.join(FORMATS)}")
    if _is_database(config):
        if export is None and card is None:
            raise QqonnxError(
                f"{config}: a results file; --export csv, json or parquet, or --card, writes it"
            )
        target = export_results(config, export) if export is not None else None
        _write_card(card, config)
        if as_json:
            print_json({"exported": target, "card": card})
        elif not quiet:
            for written in filter(None, (target, card)):
                typer.echo(written)
        return
    from qqonnx.sweep.sweep import sweep as run_sweep

    with progress_bar(quiet or as_json) as progress:

        def log(line: str) -> None:
            if not quiet:
                progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

        summary = run_sweep(
            read_config(config),
            workers=workers,
            scheduler=scheduler,
            retry_failed=retry_failed,
            log=log,
            progress=parallel_stages(progress),
        )
    exported = export_results(summary.results, export) if export is not None else None
    _write_card(card, summary.results)
    if as_json:
        print_json({**summary.to_dict(), "exported": exported, "card": card})
    elif not quiet:
        _print(summary, exported)


def _write_card(card: Path | None, results: Path) -> None:
    if card is not None:
        from qqonnx.cards.sweep_card import write_sweep_card

        write_sweep_card(card, results, command_line())


def _print(summary: Summary, exported: Path | None) -> None:
    parts = [f"{summary.runs} runs", f"{summary.done} done now", f"{summary.before} before"]
    if summary.failed:
        parts.append(f"{len(summary.failed)} failed")
    typer.echo(f"{', '.join(parts)}: {summary.results}")
    if exported is not None:
        typer.echo(exported)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise QqonnxError(f"{path}: {error.strerror or error}") from error

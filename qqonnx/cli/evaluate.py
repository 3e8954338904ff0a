"""`qqonnx evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from qqonnx.cli.terminal import (
    CARD,
    CUSTOM_OPS,
    JSON,
    QUIET,
    command_line,
    parallel_stages,
    print_json,
    progress_bar,
    table_console,
)
from qqonnx.errors import QqonnxError, printable

if TYPE_CHECKING:
    from qqonnx.evaluation import Evaluation


def evaluate(
    models: Annotated[list[Path], typer.Argument(help="ONNX models.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of images, with one folder per class if they have labels; .npy or .npz "
            "file; folder of .npz files, one run each; or module:function that yields runs.",
        ),
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="Float model to compare with.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own metric: module:function, or an entry point's name. Repeatable."
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help='What each model must reach, such as "agreement>=0.97", "bytes<=3MB" or your own '
            "metric; exit code 1 if it does not. Repeatable."
        ),
    ] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option(
            help="Of images; JSON file: resize, crop, interpolation, mean, std.",
            show_default="model's metadata",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per batch.", min=1)] = 32,
    limit: Annotated[
        int | None, typer.Option(help="Number of samples.", show_default="all", min=1)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads per run.", show_default="cores", min=1)
    ] = None,
    custom_ops: Annotated[list[Path] | None, CUSTOM_OPS] = None,
    card: Annotated[Path | None, CARD] = None,
    as_json: Annotated[bool, JSON] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Measure quality relative to BASELINE, accuracy, your metrics, size, load time, latency.

    Exits with code 1 if a model misses a requirement.
    """
    from qqonnx.cli.tables import unreadable_summary
    from qqonnx.evaluation import evaluate as evaluate_models
    from qqonnx.evaluation.plugins import find_metric
    from qqonnx.evaluation.requirements import missed, parse_requirement

    metrics = [find_metric(entry) for entry in metric or ()]
    names = [entry.name for entry in metrics]
    requirements = [parse_requirement(text, names) for text in require or ()]
    with progress_bar(quiet) as progress:
        advance = parallel_stages(progress)
        result = evaluate_models(
            models,
            data,
            baseline=baseline,
            metric=metrics,
            preprocessing=_read(preprocessing) if preprocessing else None,
            batch_size=batch_size,
            limit=limit,
            threads=threads,
            custom_ops=custom_ops or (),
            progress=lambda samples, total: advance("samples", samples, total),
        )
    unreadable_summary(result.unreadable, Console(stderr=True))
    if card is not None:
        from qqonnx.cards.cards import write_evaluation_card

        evaluated = [baseline, *models] if baseline is not None else models
        write_evaluation_card(card, result, list(dict.fromkeys(evaluated)), command_line())
    failures = missed(result, requirements)
    if as_json:
        print_json({**result.to_dict(), "missed": failures})
    elif as_csv:
        sys.stdout.write(result.to_csv())
    else:
        console = table_console()
        console.print(result.table())
        outputs = result.output_table()
        if outputs is not None:
            console.print()
            console.print(outputs)
        for line in (*result.interval_lines(), *_sources(result)):
            typer.echo(line)
    if failures:
        typer.echo(f"requirements missed: {'; '.join(failures)}", err=True)
        raise typer.Exit(1)


def _sources(result: Evaluation) -> list[str]:
    """Return what was measured on, and what was left out."""
    data = [result.data] if result.data else []
    if result.preprocessing_source:
        data.append(f"preprocessing: {result.preprocessing_source}")
    return [*(["; ".join(data)] if data else []), *map(printable, result.notes)]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QqonnxError(f"{path}: cannot be read: {error}") from error

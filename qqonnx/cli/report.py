"""`qqonnx report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qqonnx.cli.terminal import JSON, OUTPUT, print_json
from qqonnx.extras import import_extra


def report(
    results: Annotated[Path, typer.Argument(help="Results file of qqonnx sweep.")],
    output: Annotated[Path, OUTPUT] = Path("report.html"),
    as_json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Write the results of a sweep as one HTML page, and recommend files.

    The page needs neither a network nor other files.
    """
    import_extra("jinja2", "report")
    from qqonnx.report.advice import advice
    from qqonnx.report.comparisons import LOSSES
    from qqonnx.report.page import write_report

    comparisons = write_report(results, output)
    if as_json:
        picks = [
            {
                "subject": comparison.name,
                "quality": comparison.kind.name,
                "advice": advice(comparison),
                "frontier": [outcome.text["key"] for outcome in comparison.frontier],
                "picks": {
                    f"{100 * loss:g}": pick.text["key"]
                    for loss in LOSSES
                    if (pick := comparison.smallest(loss)) is not None
                },
            }
            for comparison in comparisons
        ]
        print_json({"page": output, "subjects": picks})
    elif not quiet:
        for comparison in comparisons:
            typer.echo(f"{comparison.name}: {advice(comparison)}")
        typer.echo(output)

"""`qqonnx report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qqonnx.cli.terminal import JSON, OUTPUT, print_json
from qqonnx.extras import import_extra


def report(
    results: Annotated[Path, typer.Argument(help="The results file of qqonnx sweep.")],
    output: Annotated[Path, OUTPUT] = Path("report.html"),
    as_json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Turn the results of a sweep into one HTML page, and say what to pick.

    The page needs no network and no other file.
    """
    import_extra("jinja2", "report")
    from qqonnx.report.advice import advice
    from qqonnx.report.page import write_report
    from qqonnx.report.subjects import LOSSES

    subjects = write_report(results, output)
    if as_json:
        picks = [
            {
                "subject": subject.name,
                "quality": subject.quality,
                "advice": advice(subject),
                "frontier": [outcome.text["key"] for outcome in subject.frontier],
                "picks": {
                    f"{100 * loss:g}": pick.text["key"]
                    for loss in LOSSES
                    if (pick := subject.smallest(loss)) is not None
                },
            }
            for subject in subjects
        ]
        print_json({"page": output, "subjects": picks})
    elif not quiet:
        console = Console(highlight=False, soft_wrap=True)
        for subject in subjects:
            console.print(f"{subject.name}: {advice(subject)}", markup=False)
        console.print(f"{output}", markup=False)

"""`qqonnx study`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qqonnx.cli.terminal import QUIET, progress_bar


def study(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for page and figures.", file_okay=False),
    ] = Path("study"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="The bundled network at few bit-widths; no PyTorch."),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Image folder to train reference models on. [scikit-learn's digits]"),
    ] = None,
    mnist: Annotated[
        Path | None, typer.Option(help="Folder with MNIST's files, or the word download. [digits]")
    ] = None,
    imagenette: Annotated[
        Path | None,
        typer.Option(help="Image folder (train, val) with ImageNet classes: pretrained networks."),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="For --imagenette: torchvision's weights, or a folder with NAME.pth."),
    ] = "DEFAULT",
    workers: Annotated[int | None, typer.Option(help="Number of processes. [cores]", min=1)] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore cached measurements.")] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Repeat the study of quantile quantization: figures, claims and verdicts on one HTML page.

    Models and measurements are cached, so an interrupted run continues where it stopped.
    """
    from qqonnx.study.claims import claims
    from qqonnx.study.page import write_report
    from qqonnx.study.run import FULL, QUICK, run_study
    from qqonnx.study.sources import Sources

    sources = Sources(data, mnist, imagenette, weights)
    with progress_bar(quiet) as progress:
        tasks = {}

        def advance(stage: str, done: float, total: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], advance=done)

        results = run_study(
            QUICK if quick else FULL, sources, workers=workers, fresh=fresh, progress=advance
        )
        page = write_report(results, output, partial(advance, "figures"))
    if not quiet:
        console = Console(highlight=False, soft_wrap=True)
        for claim in claims(results):
            console.print(f"{claim.verdict}: {claim.statement} {claim.number}", markup=False)
        console.print(f"{page}", markup=False)

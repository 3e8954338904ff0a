"""`qqonnx study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qqonnx.cli.terminal import QUIET, progress_bar


def study(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report.", file_okay=False)
    ] = Path("study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="The bundled network and few bit-widths; no PyTorch.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Image folder to train reference models on. [scikit-learn's digits]"),
    ] = None,
    mnist: Annotated[
        Path | None, typer.Option(help="Folder of MNIST's files, or the word download. [digits]")
    ] = None,
    imagenette: Annotated[
        Path | None,
        typer.Option(help="Image folder (train, val) of ImageNet classes: pretrained networks."),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="For --imagenette: torchvision's weights, or a folder of NAME.pth.")
    ] = "DEFAULT",
    workers: Annotated[int | None, typer.Option(help="Processes. [cores]", min=1)] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what is cached.")] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Run the study of quantile quantization again: figures, claims, verdicts, one HTML page.

    Models and measurements are kept in the cache folder; a run that was interrupted goes on.
    """
    from qqonnx.study.claims import claims
    from qqonnx.study.page import write_report
    from qqonnx.study.run import FULL, QUICK, run_study
    from qqonnx.study.sources import Sources

    sources = Sources(data, mnist, imagenette, weights)
    with progress_bar(quiet) as progress:
        tasks = {}

        def advance(what: str, done: float, total: float) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], advance=done)

        results = run_study(
            QUICK if quick else FULL, sources, workers=workers, fresh=fresh, progress=advance
        )
        page = write_report(results, output, lambda done, all_: advance("figures", done, all_))
    if not quiet:
        console = Console(highlight=False, soft_wrap=True)
        for claim in claims(results):
            console.print(f"{claim.verdict}: {claim.statement} {claim.number}", markup=False)
        console.print(f"{page}", markup=False)

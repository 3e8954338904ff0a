"""`qqonnx study`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from qqonnx.cli.terminal import QUIET, parallel_stages, progress_bar


def study(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for page and figures.", file_okay=False),
    ] = Path("study"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Bundled network, few bit-widths; needs no PyTorch."),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Image folder to train reference models on.", show_default="scikit-learn's digits"
        ),
    ] = None,
    mnist: Annotated[
        Path | None,
        typer.Option(help="Folder with MNIST's files, or download.", show_default="digits"),
    ] = None,
    imagenette: Annotated[
        Path | None,
        typer.Option(help="Image folder (train, val), ImageNet classes: use pretrained networks."),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="For --imagenette: torchvision's weights, or a folder with NAME.pth."),
    ] = "DEFAULT",
    workers: Annotated[
        int | None, typer.Option(help="Number of processes.", show_default="cores", min=1)
    ] = None,
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
        advance = parallel_stages(progress)
        results = run_study(
            QUICK if quick else FULL, sources, workers=workers, fresh=fresh, progress=advance
        )
        page = write_report(results, output, partial(advance, "figures"))
    if not quiet:
        for claim in claims(results):
            typer.echo(f"{claim.verdict}: {claim.statement} {claim.number}")
        typer.echo(page)

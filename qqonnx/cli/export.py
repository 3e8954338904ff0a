"""`qqonnx export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qqonnx.cli.terminal import JSON, OUTPUT, WEIGHTS, print_json


def export(
    model: Annotated[
        str, typer.Argument(help="Name of a torchvision model, or efficientnet_lite0.")
    ],
    output: Annotated[Path, OUTPUT],
    weights: Annotated[str, WEIGHTS] = "DEFAULT",
    image_size: Annotated[int | None, typer.Option(help="Side of input images in pixels.")] = None,
    simplify: Annotated[bool, typer.Option("--simplify", help="Simplify with onnxsim.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Export a pretrained PyTorch model to ONNX and compare its outputs with PyTorch's."""
    from qqonnx import zoo

    report = zoo.export(model, output, weights=weights, image_size=image_size, simplify=simplify)
    if as_json:
        print_json(
            {**vars(report), "path": str(report.path), "preprocessing": vars(report.preprocessing)}
        )
    else:
        typer.echo(
            f"{report.path}: {report.source}, {report.parameters:,} parameters, "
            f"{report.file_bytes:,} bytes, opset {report.opset}; differs from PyTorch by at most "
            f"{report.max_abs_difference:.1e}"
        )

"""`qqonnx inspect`, `qqonnx verify` and `qqonnx restore`: the content of a compressed file."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from qqonnx.cli.terminal import (
    CUSTOM_OPS,
    EXTERNAL,
    JSON,
    OUTPUT,
    bounded,
    print_json,
    table_console,
)
from qqonnx.errors import printable


class State(str, Enum):
    """What `inspect` can require of a file."""

    COMPRESSED = "compressed"


def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    require: Annotated[
        State | None, typer.Option(help="Exit code 1 unless the file is compressed as a whole.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show each weight's shape, method, bits, levels, entropy, error and bytes.

    With --require compressed, exits with code 1 if the file is not compressed, or if a weight is
    stored as floats again.
    """
    from qqonnx.cli.tables import inspection_summary
    from qqonnx.compression.inspect import inspect as inspect_file

    with bounded(model):
        inspection = inspect_file(model)
    if as_json:
        print_json(inspection.to_dict())
    else:
        inspection_summary(inspection, table_console())
    if require is not None and inspection.problem is not None:
        typer.echo(f"requirement missed: {inspection.path}: {inspection.problem}", err=True)
        raise typer.Exit(1)


def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="An ONNX file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another ONNX file.")],
    custom_ops: Annotated[list[Path] | None, CUSTOM_OPS] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compare two files: their decoded weights bit for bit, and their outputs.

    Exits with code 1 if a weight or an output differs, or a weight is in one file only.
    """
    from qqonnx.compression.verify import verify as verify_files

    with bounded(first, second):
        verification = verify_files(first, second, custom_ops=custom_ops or ())
    weights, outputs = verification.weights, verification.outputs
    if as_json:
        print_json({"weights": vars(weights), "outputs": vars(outputs)})
    else:
        typer.echo(f"tensors that are the same: {weights.same}")
        for title, names in (
            ("that differ", weights.different),
            ("only in A", weights.only_first),
            ("only in B", weights.only_second),
        ):
            typer.echo(f"{title}: {len(names)}")
            for name in names:
                typer.echo(f"  {printable(name)}")
        if outputs.reason:
            typer.echo(f"outputs not compared: {printable(outputs.reason)}")
        else:
            typer.echo(
                f"outputs differ by at most {outputs.max_difference:.2g}, "
                f"where they reach {outputs.magnitude:.2g}"
            )
    if not verification.equal:
        raise typer.Exit(1)


def restore(
    model: Annotated[Path, typer.Argument(help="File that qqonnx compressed.")],
    output: Annotated[Path, OUTPUT],
    external_data: Annotated[bool, EXTERNAL] = False,
    as_float: Annotated[
        bool,
        typer.Option("--float", help="Let a file made with --compute int8 multiply floats again."),
    ] = False,
) -> None:
    """Write a compressed model with plain weights: floats, or int8 if it multiplies integers."""
    from qqonnx.compression.restore import restore as restore_file

    with bounded(model):
        count = restore_file(model, output, external_data=external_data, as_float=as_float)
    typer.echo(f"{output}: {count} weights are plain again")

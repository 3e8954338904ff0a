"""The command line: `qqonnx COMMAND`, and `convert-model` for `qqonnx convert`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qqonnx.errors import QqonnxError
from qqonnx.plan import GRANULARITIES, Options

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    help="Make an ONNX model several times smaller and still run it in a stock ONNX Runtime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

_JSON = typer.Option("--json", help="Print the result as JSON on stdout.")
_QUIET = typer.Option("--quiet", "-q", help="No progress bar and no table.")
_OUTPUT = typer.Option("--output", "-o", help="The file to write.", dir_okay=False)
_WEIGHTS = typer.Option(
    "--weights",
    help="For a model's name: DEFAULT, another name of torchvision's weights, a .pth or "
    ".safetensors file, or none (random).",
)
_EXTERNAL = typer.Option("--external-data", help="Put tensors into a second file, OUTPUT.data.")


def main() -> None:
    """Run `qqonnx`."""
    _run(app)


def convert_model() -> None:
    """Run `convert-model`."""
    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    single.command()(convert)
    _run(single)


def _run(command: Callable[[], Any]) -> None:
    try:
        command()
    except QqonnxError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - one plain line, no markup
        sys.exit(2)
    except MemoryError:
        print("error: out of memory", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="An ONNX file, or a torchvision model's name.")],
    output: Annotated[Path, _OUTPUT],
    method: Annotated[
        str,
        typer.Option(help="Codebook: uq, pwlq, pwlq-gauss, pwlq-laplace, pwlq-paper, qq, kmeans."),
    ] = "kmeans",
    bits: Annotated[int, typer.Option(help="Bits a weight.", min=1, max=8)] = 8,
    levels: Annotated[
        int | None, typer.Option(help="Levels instead of bits, 2 to 256: 6 levels are 2.67 bits.")
    ] = None,
    granularity: Annotated[
        str,
        typer.Option(
            help="tensor: one codebook; channel: one for each output channel; scale: one, and a "
            "scale for each output channel."
        ),
    ] = GRANULARITIES[0],
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave weights of this name alone (* and ? match).")
    ] = None,
    bits_for: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN=N: other bits for weights of this name.", metavar="PATTERN=N"),
    ] = None,
    include_bias: Annotated[bool, typer.Option("--include-bias", help="Biases too.")] = False,
    min_size: Annotated[
        int, typer.Option(help="Leave tensors with fewer elements alone.", min=0)
    ] = 1024,
    simplify: Annotated[
        bool, typer.Option("--simplify", help="Pass the model through onnxsim first.")
    ] = False,
    weights: Annotated[str, _WEIGHTS] = "DEFAULT",
    external_data: Annotated[bool, _EXTERNAL] = False,
    as_json: Annotated[bool, _JSON] = False,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Compress MODEL: float weights become packed indices and codebooks; verified, then written."""
    from qqonnx.compression import compress
    from qqonnx.tables import compress_summary

    options = Options(
        method=method,
        bits=bits,
        levels=levels,
        granularity=granularity,
        skip=tuple(skip or ()),
        bits_for=dict(map(_pattern_and_bits, bits_for or ())),
        include_bias=include_bias,
        min_size=min_size,
    )
    with tempfile.TemporaryDirectory(prefix="qqonnx-") as folder:
        source = _as_file(model, weights, simplify, Path(folder))
        with _progress(quiet or as_json) as progress:
            task = progress.add_task("", total=None)

            def advance(name: str, elements: int, total: int) -> None:
                progress.update(task, description=name, total=total, advance=elements)

            report = compress(
                source, output, options, external_data=external_data, progress=advance
            )
    if as_json:
        _print_json(report.to_dict())
    elif not quiet:
        compress_summary(report, _console())


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="A torchvision model's name, or efficientnet_lite0.")
    ],
    output: Annotated[Path, _OUTPUT],
    weights: Annotated[str, _WEIGHTS] = "DEFAULT",
    image_size: Annotated[int | None, typer.Option(help="Side of input images in pixels.")] = None,
    simplify: Annotated[bool, typer.Option("--simplify", help="Pass it through onnxsim.")] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Write a pretrained PyTorch model as ONNX, checked against PyTorch."""
    from qqonnx import zoo

    report = zoo.export(model, output, weights=weights, image_size=image_size, simplify=simplify)
    if as_json:
        _print_json(
            {**vars(report), "path": str(report.path), "preprocessing": vars(report.preprocessing)}
        )
    else:
        Console().print(
            f"{report.path}: {report.source}, {report.parameters:,} parameters, "
            f"{report.file_bytes:,} bytes, opset {report.opset}; differs from PyTorch by at most "
            f"{report.max_abs_difference:.1e}",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def evaluate(
    models: Annotated[list[Path], typer.Argument(help="ONNX image classifiers.")],
    data: Annotated[
        Path, typer.Option(help="A folder with one folder of images a class, or an .npz file.")
    ],
    baseline: Annotated[Path | None, typer.Option(help="The float model to compare with.")] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option(help="JSON file: resize, crop, interpolation, mean, std. [model's metadata]"),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.", min=1)] = 32,
    limit: Annotated[int | None, typer.Option(help="Take this many images only.", min=1)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one run.", min=1)] = None,
    as_json: Annotated[bool, _JSON] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Measure accuracy, agreement with BASELINE, size, load time and latency."""
    from qqonnx.evaluation import evaluate as evaluate_models

    with _progress(quiet) as progress:
        task = progress.add_task("images", total=None)
        result = evaluate_models(
            models,
            data,
            baseline=baseline,
            preprocessing=_read(preprocessing) if preprocessing else None,
            batch_size=batch_size,
            limit=limit,
            threads=threads,
            progress=lambda images, total: progress.update(task, total=total, advance=images),
        )
    for name in result.unreadable:
        Console(stderr=True).print(f"left out, unreadable: {name}", markup=False, soft_wrap=True)
    if as_json:
        _print_json(result.to_dict())
    elif as_csv:
        sys.stdout.write(result.to_csv())
    else:
        console = _console()
        console.print(result.table())
        console.print(
            f"{result.rows[0].images} images; preprocessing: {result.preprocessing_source}",
            highlight=False,
        )


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show each weight's shape, method, bits, levels, entropy, error and bytes."""
    from qqonnx.inspection import inspect as inspect_file
    from qqonnx.tables import inspection_summary

    inspection = inspect_file(model)
    if as_json:
        _print_json(inspection.to_dict())
    else:
        inspection_summary(inspection, _console())


@app.command()
def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="An ONNX file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Compare two files: their weights bit for bit, decoded if need be, and their outputs.

    Exits with code 1 if a weight or an output differs.
    """
    from qqonnx.graph.load import load
    from qqonnx.graph.verify import compare_outputs, same_weights

    different = same_weights(load(first), load(second))
    outputs = compare_outputs(first, second)
    if as_json:
        _print_json({"different_weights": different, "outputs": vars(outputs)})
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"weights that differ: {len(different)}")
        for name in different:
            console.print(f"  {name}", markup=False)
        if outputs.reason:
            console.print(f"outputs not compared: {outputs.reason}", markup=False)
        else:
            console.print(
                f"outputs differ by at most {outputs.max_difference:.2g}, "
                f"where they reach {outputs.magnitude:.2g}"
            )
    if different or not (outputs.reason or outputs.equal):
        raise typer.Exit(1)


@app.command()
def restore(
    model: Annotated[Path, typer.Argument(help="A file that qqonnx compressed.")],
    output: Annotated[Path, _OUTPUT],
    external_data: Annotated[bool, _EXTERNAL] = False,
) -> None:
    """Write a compressed model with plain float weights again."""
    from qqonnx.compression import restore as restore_file

    count = restore_file(model, output, external_data=external_data)
    Console(highlight=False, soft_wrap=True).print(f"{output}: {count} weights are floats again")


def _as_file(model: str, weights: str, simplify: bool, folder: Path) -> Path:
    """Return the ONNX file that MODEL names, exported into `folder` if it is a model's name."""
    path = Path(model)
    if path.exists() or path.suffix == ".onnx":
        if not simplify:
            return path
        import onnx

        from qqonnx import zoo
        from qqonnx.graph.load import load

        load(path)
        simplified = folder / path.name
        onnx.save(zoo.simplify(onnx.load(path)), simplified)
        return simplified
    from qqonnx import zoo

    exported = folder / f"{model}.onnx"
    zoo.export(model, exported, weights=weights, simplify=simplify)
    return exported


def _console() -> Console:
    console = Console()
    # A table that is piped on is not cut to the width of some terminal.
    return console if console.is_terminal else Console(width=200)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QqonnxError(f"{path}: cannot be read: {error}") from error


def _pattern_and_bits(text: str) -> tuple[str, int]:
    pattern, equals, bits = text.rpartition("=")
    if not equals or not pattern or not bits.isdecimal():
        raise QqonnxError(f"--bits-for {text}: must be PATTERN=N")
    return pattern, int(bits)


def _progress(disabled: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        disable=disabled or not console.is_terminal,
        transient=True,
    )


def _print_json(content: dict[str, Any]) -> None:
    def finite(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: finite(value) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return [finite(value) for value in item]
        if isinstance(item, float) and item in (float("inf"), float("-inf")):
            return None
        return str(item) if isinstance(item, Path) else item

    sys.stdout.write(json.dumps(finite(content), indent=2) + "\n")

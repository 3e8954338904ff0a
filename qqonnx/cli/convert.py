"""`qqonnx convert`, also installed as `convert-model`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from qqonnx.cli.folder import NAME, RULES, convert_folder
from qqonnx.cli.parsing import as_file, calibration_of, pattern_and_bits, target_of
from qqonnx.cli.terminal import (
    CARD,
    CUSTOM_OPS,
    EXTERNAL,
    FILE_OR_FOLDER,
    JSON,
    QUIET,
    WEIGHTS,
    bounded,
    command_line,
    print_json,
    progress_bar,
    stages,
    table_console,
)
from qqonnx.codebooks import METHODS
from qqonnx.config import (
    AUTO,
    COMPUTE,
    DEFAULT_BITS,
    GRANULARITIES,
    INTEGER_RANGES,
    OPERATORS,
    PLAIN_METHOD,
    Options,
)
from qqonnx.errors import OptionError
from qqonnx.temporary import temporary_folder

if TYPE_CHECKING:
    from qqonnx.config import Compute, Granularity, Operators


def convert(
    model: Annotated[
        str,
        typer.Argument(help="ONNX file, folder of models, or name of a torchvision model."),
    ],
    output: Annotated[Path, FILE_OR_FOLDER],
    method: Annotated[
        str | None,
        typer.Option(
            help="auto: GPTQ, with levels where they matter; or a codebook method: "
            f"{', '.join(METHODS)}, or a plug-in's.",
            show_default=AUTO,
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Bits per weight.", show_default=str(DEFAULT_BITS), min=1, max=8),
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(help="Levels instead of bits, 2 to 256; 6 levels take 2.67 bits."),
    ] = None,
    granularity: Annotated[
        str | None,
        typer.Option(
            help="tensor: one codebook per tensor; channel: one per output channel; scale: one per "
            "tensor, and a scale per output channel.",
            show_default=GRANULARITIES[0],
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Skip weights whose name matches a pattern with * and ?."),
    ] = None,
    bits_for: Annotated[
        list[str] | None,
        typer.Option(help="Bits per weight for weights whose name matches.", metavar="PATTERN=N"),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="k-means with scales, without calibration: in a second."),
    ] = False,
    include_bias: Annotated[
        bool, typer.Option("--include-bias", help="Compress biases too.")
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Compress float tensors whose name matches a pattern, however they are used, such "
            "as a position table that is added."
        ),
    ] = None,
    constant_initializers: Annotated[
        bool,
        typer.Option(
            "--constant-initializers",
            help="Compress initializers that are inputs of the model too; they are then constants.",
        ),
    ] = False,
    min_size: Annotated[int, typer.Option(help="Skip tensors with fewer elements.", min=0)] = 1024,
    operators: Annotated[
        str,
        typer.Option(
            help="standard: standard operators, for every runtime; matmulnbits: ONNX Runtime's "
            "operator for MatMul and Gemm, 4 or 8 bits, packed in memory too."
        ),
    ] = OPERATORS[0],
    compute: Annotated[
        str,
        typer.Option(
            help="float; int8-static: Conv, Gemm and MatMul multiply integers, with ranges of "
            "activations found by calibration; int8-dynamic: Gemm and MatMul do, with ranges found "
            "in each run; int8: static if most layers are Conv."
        ),
    ] = COMPUTE[0],
    int8_range: Annotated[
        int,
        typer.Option(help="Largest integer level, 63 or 127; x86 without VNNI saturates from 65."),
    ] = INTEGER_RANGES[0],
    runtime_min: Annotated[
        str | None,
        typer.Option(help="Oldest ONNX Runtime that must run the file, such as 1.15."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Number of threads.", show_default="cores", min=1)
    ] = None,
    simplify: Annotated[
        bool, typer.Option("--simplify", help="Simplify the model with onnxsim first.")
    ] = False,
    target_size: Annotated[
        str | None, typer.Option(help="Best accuracy at a file size, such as 2.5MB.")
    ] = None,
    target_bits: Annotated[
        float | None,
        typer.Option(help="Best accuracy at a file size in bits per weight, such as 4.2."),
    ] = None,
    target_ratio: Annotated[
        float | None,
        typer.Option(help="Best accuracy in a file that is smaller by a factor, such as 8."),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            help="Smallest file that changes at most a share of answers, such as 1%, or with "
            "--metric loses at most a share of the float model's value."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="For --max-drop: module:function, or the name of an entry point."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Calibration inputs: a folder of images; an .npy or .npz file of stacked inputs; "
            "a folder of .npz files, or module:function, with the inputs of one run each; or none "
            "(synthetic inputs, the default with a target)."
        ),
    ] = None,
    calibration_samples: Annotated[
        int | None,
        typer.Option(help="Largest number of calibration samples.", show_default="256", min=1),
    ] = None,
    finetune: Annotated[
        bool,
        typer.Option(
            "--finetune",
            "--reconstruct",
            help="Fine-tune levels, scales and biases afterwards; pays at few bits; needs PyTorch.",
        ),
    ] = False,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help="How much an output counts when levels are distributed; 0 leaves it out.",
            metavar="OUTPUT=FACTOR",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds that calibration may take; it uses fewer samples then.", min=0),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="JSON file of levels per weight: written with a target, read without."),
    ] = None,
    rules: Annotated[Path | None, RULES] = None,
    name: Annotated[str | None, NAME] = None,
    card: Annotated[Path | None, CARD] = None,
    weights: Annotated[str, WEIGHTS] = "DEFAULT",
    external_data: Annotated[bool, EXTERNAL] = False,
    custom_ops: Annotated[list[Path] | None, CUSTOM_OPS] = None,
    no_verify_outputs: Annotated[
        bool,
        typer.Option(
            "--no-verify-outputs",
            help="Do not run models to compare outputs. Weights are verified in any case.",
        ),
    ] = False,
    as_json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Compress MODEL: store float weights as packed indices and codebooks, verified bit for bit."""
    from qqonnx.cli.tables import compress_summary
    from qqonnx.compression.pipeline import compress

    if fast:
        if method is not None or granularity is not None:
            raise OptionError("fast", "has a method and a granularity: kmeans and scale")
        method, granularity = PLAIN_METHOD, "scale"
    options = Options(
        method=method,
        bits=bits,
        levels=levels,
        granularity=cast("Granularity | None", granularity),
        skip=tuple(skip or ()),
        bits_for=dict(map(pattern_and_bits, bits_for or ())),
        include_bias=include_bias,
        include=tuple(include or ()),
        constant_initializers=constant_initializers,
        min_size=min_size,
        operators=cast("Operators", operators),
        compute=cast("Compute", compute),
        int8_range=int8_range,
    )
    target = target_of(target_size, target_bits, target_ratio, max_drop, metric)
    calibrated = calibration_of(
        calibration, calibration_samples, target, plan, loss, finetune, time_limit
    )
    if fast and calibrated is not None:
        raise OptionError("fast", "takes neither calibration nor a target")
    # A folder may have the name of a model.
    if Path(model).is_dir() and output.suffix != ".onnx":
        convert_folder(
            Path(model),
            output,
            options,
            calibrated,
            rules=rules,
            name=name,
            runtime_min=runtime_min,
            threads=threads,
            card=card,
            as_json=as_json,
            quiet=quiet,
            refused={
                "plan": plan is not None,
                "simplify": simplify,
                "external_data": external_data,
                "custom_ops": bool(custom_ops),
                "no_verify_outputs": no_verify_outputs,
                "weights": weights != "DEFAULT",
            },
        )
        return
    for option, given in {"options": rules, "name": name}.items():
        if given is not None:
            raise OptionError(option, f"is for a folder, and {model} is none")
    with temporary_folder() as folder:
        source = as_file(model, weights, simplify, folder)
        with bounded(source), progress_bar(quiet or as_json) as progress:
            report = compress(
                source,
                output,
                options,
                calibration=calibrated,
                external_data=external_data,
                runtime_min=runtime_min,
                custom_ops=custom_ops or (),
                verify_outputs=not no_verify_outputs,
                threads=threads,
                progress=stages(progress),
            )
        if card is not None:
            from qqonnx.cards.cards import write_file_card

            label = Path(model).name + (" (simplified)" if simplify else "")
            write_file_card(card, report, source, label, command_line())
    if as_json:
        print_json(report.to_dict())
    elif not quiet:
        compress_summary(report, table_console())

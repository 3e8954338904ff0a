"""Words of the command line as what they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.errors import OptionError, QqonnxError

if TYPE_CHECKING:
    from qqonnx.config import Calibration, Target


def as_file(model: str, weights: str, simplify: bool, folder: Path) -> Path:
    """Return the ONNX file of MODEL, exported or simplified into `folder` where needed."""
    path = Path(model)
    # A folder may have the name of a model.
    if path.is_file() or path.suffix == ".onnx":
        if weights != "DEFAULT":
            raise OptionError("weights", "would be ignored: an ONNX file has its own weights")
        if not simplify:
            return path
        import onnx
        from google.protobuf.message import EncodeError

        from qqonnx import zoo
        from qqonnx.model.load import load

        load(path)
        simplified = folder / path.name
        try:
            onnx.save(zoo.simplify(onnx.load(path)), simplified)
        except (ValueError, EncodeError) as error:  # protobuf's, beyond its limit
            raise QqonnxError(f"{path}: --simplify takes models of at most 2 GB") from error
        return simplified
    from qqonnx import zoo

    exported = folder / f"{model}.onnx"
    zoo.export(model, exported, weights=weights, simplify=simplify)
    return exported


def target_of(
    size: str | None,
    bits: float | None,
    ratio: float | None,
    max_drop: str | None,
    metric: str | None,
) -> Target | None:
    """Return the target of the options; None without one."""
    if size is None and bits is None and ratio is None and max_drop is None:
        if metric is not None:
            raise OptionError("target.metric", "would be ignored without --max-drop")
        return None
    from qqonnx.config import Target
    from qqonnx.quantities import parse_share, parse_size

    return Target(
        size=None if size is None else parse_size(size),
        bits=bits,
        ratio=ratio,
        max_drop=None if max_drop is None else parse_share(max_drop),
        metric=metric,
    )


def calibration_of(
    data: str | None,
    samples: int | None,
    target: Target | None,
    plan: Path | None,
    loss: list[str] | None,
    finetune: bool,
    time_limit: float | None,
) -> Calibration | None:
    """Return the calibration that the options ask for; None if they ask for none."""
    given = (data, target, plan, time_limit)
    if all(value is None for value in given) and not (finetune or loss):
        if samples is not None:
            raise OptionError("calibration.samples", "would be ignored: there are no inputs")
        return None
    from qqonnx.config import Calibration

    return Calibration(
        data=None if data in (None, "none") else data,
        samples=Calibration.samples if samples is None else samples,
        target=target,
        plan=plan,
        finetune=finetune,
        loss=dict(map(output_and_factor, loss or ())),
        time_limit=time_limit,
    )


def output_and_factor(text: str) -> tuple[str, float]:
    """Return the name and the factor of OUTPUT=FACTOR."""
    name, _, factor = text.rpartition("=")
    try:
        value = float(factor)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value < float("inf"):
        raise OptionError("calibration.loss", f"must be OUTPUT=FACTOR, not {text}")
    return name, value


def pattern_and_bits(text: str) -> tuple[str, int]:
    """Return the pattern and the bits of PATTERN=N."""
    pattern, equals, bits = text.rpartition("=")
    if not equals or not pattern or not bits.isdecimal():
        raise OptionError("bits_for", f"must be PATTERN=N, not {text}")
    return pattern, int(bits)

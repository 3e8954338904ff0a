"""Text for numbers and runs: units, labels, and the command that repeats a run."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from qqonnx.config import Options
from qqonnx.errors import printable
from qqonnx.sweep.config import parts_of
from qqonnx.sweep.grid import TARGET

if TYPE_CHECKING:
    from qqonnx.report.outcomes import Outcome

LONGEST = 80
"""The most characters that are shown of a name or a message."""

_FLAGS = {
    "bits": "--target-bits",
    "ratio": "--target-ratio",
    "max_drop": "--max-drop",
    "size": "--target-size",
}

_GRANULARITIES = {"scale": "scale per channel", "channel": "codebook per channel"}


def megabytes(nbytes: float) -> str:
    """Format a size in MB of 10^6 bytes with three significant digits."""
    size = nbytes / 1e6
    if 1 <= size < 10:
        return f"{size:.2f} MB"
    return f"{size:.3g} MB" if size < 1000 else f"{size:.0f} MB"


def percent(share: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    """Format a difference between two shares in percentage points."""
    number = f"{100 * share:g}"
    return f"{number} point" if number == "1" else f"{number} points"


def unbroken(text: str) -> str:
    """Return `text` with no-break spaces between numbers and their units."""
    return re.sub(r"(?<=\d) (?=%|(?:MB|bits?|points?|times)\b)", "\N{NO-BREAK SPACE}", text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return `text` with invisible characters escaped and the middle of a long text cut out."""
    text = printable(text)
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[: half - 1]}…{text[len(text) - half :]}"


def label(outcome: Outcome) -> str:
    """Return the label of a run, such as "kmeans 4 bits, scale per channel"."""
    granularity = _GRANULARITIES.get(outcome.granularity)
    return short_label(outcome) + (f", {granularity}" if granularity else "")


def short_label(outcome: Outcome) -> str:
    """Return the method and bits of a run, or its budget."""
    words = _method_label(outcome)
    return words if outcome.compute == "float" else f"{words}, {shortened(outcome.compute, 20)}"


def _method_label(outcome: Outcome) -> str:
    if outcome.method == TARGET:
        return f"calibrated to {shortened(outcome.text.get('budget', ''), 20)}"
    name = shortened(outcome.method, 30)
    bits = outcome.numbers.get("bits")
    if bits is None or name.endswith(f"int{bits:g}") or outcome.method.startswith("ort-"):
        return name
    return f"{name} {bits:g} {'bit' if bits == 1 else 'bits'}"


def command(outcome: Outcome) -> str | None:
    """Return the `qqonnx convert` command that repeats a run; None for a baseline."""
    if outcome.is_baseline:
        return None
    model = shortened(outcome.text.get("model", "model"))
    options = outcome.settings["options"]
    words = ["qqonnx", "convert", f"{model}.onnx", "-o", "small.onnx"]
    if outcome.method == TARGET:
        kind, value = parts_of(outcome.text.get("budget", ""))
        words += [_FLAGS[kind], value, "--calibration", "DATA"]
    else:
        words += ["--method", outcome.method, "--bits", f"{outcome.numbers.get('bits', 0):g}"]
        if outcome.granularity:
            words += ["--granularity", outcome.granularity]
    if outcome.compute != "float":
        words += ["--compute", outcome.compute]
    for pattern in options.get("skip") or ():
        words += ["--skip", str(pattern)]
    if options.get("include_bias"):
        words.append("--include-bias")
    if options.get("min_size", Options.min_size) != Options.min_size:
        words += ["--min-size", str(options["min_size"])]
    calibration = options.get("calibration")
    if isinstance(calibration, dict) and outcome.method == TARGET:
        words += ["--calibration-samples", str(calibration.get("samples", 256))]
        if calibration.get("finetune"):
            words.append("--finetune")
    return printable(" ".join(map(shlex.quote, words)))

"""Tables of weights and summaries as text."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from qqonnx.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from qqonnx.compression.inspect import Inspection
    from qqonnx.compression.results import CompressReport, WeightReport
    from qqonnx.model.select import Skipped

MAX_OUTPUTS = 4
"""Number of outputs whose quality is printed."""

MAX_NAMES = 4
"""Number of tensors that are named as a value of --include."""

_COLUMNS = (
    "weight",
    "shape",
    "method",
    "bits",
    "levels",
    "entropy",
    "L1",
    "L2",
    "SQNR dB",
    "bytes before",
    "after",
)

_FULL_WIDTH = 110
"""Terminal width for a table with all columns, if names are short."""

_SHORT_COLUMNS = ("weight", "shape", "bits", "entropy", "SQNR dB", "bytes before", "after")


def compress_summary(report: CompressReport, console: Console) -> None:
    """Print the compressed weights, the skipped tensors, and the file sizes."""
    console.print(_weights_table(report.weights, _SHORT_COLUMNS))
    _print_skipped(report.skipped, console)
    if report.quantized:
        _print_line(console, _quantized_line(report))
    if report.calibration is not None:
        _print_line(console, f"calibrated with {report.calibration}")
    if report.doubt is not None:
        _print_line(console, printable(report.doubt))
    unreadable_summary(report.unreadable, console)
    ratio = report.bytes_before / report.bytes_after
    checked = "runs as its decoded weights do"
    if report.outputs.reason is not None:
        checked = f"was not run: {printable(report.outputs.reason)}"
    lines = [
        f"file check: every weight decodes as planned; the file {checked}",
        f"{report.path}: {report.bytes_after:,} bytes, {ratio:.2f} times smaller than "
        f"{report.bytes_before:,}",
        *_drop_lines(report),
        *_quality_lines(report),
    ]
    for line in lines:
        _print_line(console, line)


def _quantized_line(report: CompressReport) -> str:
    weights = f"{report.quantized} of its {len(report.weights)} compressed weights"
    if report.quantized == len(report.weights):
        weights = f"its {report.quantized} compressed weights"
    return f"the model is quantized already: {weights} are int8 and have int8 levels"


def _drop_lines(report: CompressReport) -> list[str]:
    """Return what was lost on the samples that no weight was fitted to."""
    drop = report.drop
    if drop is None:
        return []
    lost = f"{100 * drop.lost:.2f} % of the {printable(drop.metric)}"
    lost = f"{lost} {'changed' if drop.metric == 'answers' else 'lost'}"
    if drop.interval is not None:
        low, high = drop.interval
        lost += f" (95 % interval {100 * low:.2f} to {100 * high:.2f} %)"
    if not drop.samples:
        return [f"measured on the file: {lost}"]
    return [f"measured on {drop.samples} held-out samples, with weights fitted to others: {lost}"]


def _quality_lines(report: CompressReport) -> list[str]:
    """Return what the outputs lost, the worst output first, and the way out if that is much."""
    quality = report.quality
    if quality.reason is not None:
        reason = printable(quality.reason)
        lines = [f"outputs not compared with the original model: {reason}"]
        if quality.poor:
            names = ", ".join(map(repr, quality.poor[:MAX_OUTPUTS]))
            lines.append(
                f"warning: {printable(names)} may have lost much; judge it by your own metric: "
                "qqonnx evaluate --metric module:function"
            )
        return lines
    samples = quality.outputs[0].samples
    inputs = f"{samples} samples, {quality.source}"
    if quality.source[:1].isdigit():
        inputs = f"{samples} of {quality.source}"
    lines = [f"outputs against the original model on {inputs}:"]
    for output in quality.outputs[:MAX_OUTPUTS]:
        parts = [f"relative error {100 * output.relative_error:.1f} %"]
        if output.agreement is not None and output.kl is not None:
            parts = [f"agreement {100 * output.agreement:.1f} %", f"KL {output.kl:.4f}", *parts]
        elif output.worst_channel > output.relative_error:
            parts.append(f"worst channel {100 * output.worst_channel:.1f} %")
        parts.append(f"cosine {output.cosine:.4f}")
        lines.append(f"  {printable(output.name)}: {', '.join(parts)}")
    if len(quality.outputs) > MAX_OUTPUTS:
        lines.append(f"  and {len(quality.outputs) - MAX_OUTPUTS} outputs that lost less")
    lines += [
        f"  {printable(output.name)}: not compared, because {output.reason}"
        for output in quality.uncompared
    ]
    if quality.poor:
        names = ", ".join(map(repr, quality.poor[:MAX_OUTPUTS]))
        lines.append(f"warning: {printable(names)} lost much; {_way_out(report)}")
    return lines


def _way_out(report: CompressReport) -> str:
    """Return the option that loses less than a report says."""
    weights = sum(prod(weight.shape) for weight in report.weights)
    bits = 8 * report.bytes_after / weights
    if report.calibration is None and report.quantized == len(report.weights):
        return "more --bits lose less"
    if report.calibration is None:
        return "--method auto loses less at this size, with --calibration INPUTS least"
    if "data-free" in report.calibration:
        return "--calibration INPUTS, with inputs that the model will meet, loses less"
    return f"--target-bits {bits + 1:.1f} loses less"


def unreadable_summary(names: Sequence[str], console: Console) -> None:
    """Print the number and the names of unreadable image files."""
    if names:
        _print_line(console, f"{len(names)} images left out, as they cannot be read:")
    for name in names:
        _print_line(console, f"  {printable(name)}")


def inspection_summary(inspection: Inspection, console: Console) -> None:
    """Print the weights of a file, its float tensors, and its state."""
    if inspection.weights:
        columns = _COLUMNS if console.width >= _FULL_WIDTH else _SHORT_COLUMNS
        console.print(_weights_table(inspection.weights, columns))
        _print_line(console, _entropy_line(inspection.weights))
        left_out = [column for column in _COLUMNS if column not in columns]
        if left_out:
            _print_line(console, f"in a wider terminal, or with --json: {', '.join(left_out)}")
    _print_skipped(inspection.plain, console, "plain float tensors")
    if inspection.unobserved:
        reasons = Counter(inspection.unobserved.values())
        parts = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
        count = len(inspection.unobserved)
        _print_line(console, f"without error feedback: {count} weights: {parts}")
    version = inspection.version
    state = f"compressed by qqonnx {printable(version)}" if version else "not compressed"
    _print_line(console, f"{inspection.path}: {inspection.file_bytes:,} bytes, {state}")
    if inspection.inflated and inspection.problem is not None:
        _print_line(console, inspection.problem)


def _entropy_line(weights: Sequence[WeightReport]) -> str:
    sizes = [prod(weight.shape) for weight in weights]
    stored = sum(size * w.bits for size, w in zip(sizes, weights, strict=True)) / 8
    bound = sum(size * w.entropy for size, w in zip(sizes, weights, strict=True)) / 8
    above = f", {100 * (stored / bound - 1):.1f} % above" if bound else ""
    return f"indices: {stored:,.0f} bytes{above} their entropy, {bound:,.0f} bytes"


def _weights_table(weights: Sequence[WeightReport], columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        left = column in _COLUMNS[:3]
        table.add_column(
            column,
            justify="left" if left else "right",
            no_wrap=column != "weight",
            overflow="fold" if column == "weight" else "ellipsis",
        )
    for weight in weights:
        granularity = "" if weight.granularity == "tensor" else f"/{weight.granularity}"
        cells = (
            weight.name,
            "×".join(map(str, weight.shape)),
            weight.method + granularity,
            f"{weight.bits:.2f}".removesuffix(".00"),
            f"{weight.levels_used} of {weight.levels}",
            f"{weight.entropy:.2f}",
            f"{weight.l1:.2e}",
            f"{weight.l2:.2e}",
            f"{weight.sqnr:.1f}",
            f"{weight.bytes_before:,}",
            f"{weight.bytes_after:,}",
        )
        shown = dict(zip(_COLUMNS, cells, strict=True))
        table.add_row(*(escape(printable(shown[column])) for column in columns))
    return table


def _print_skipped(
    skipped: Iterable[Skipped], console: Console, title: str = "left as they are"
) -> None:
    entries = list(skipped)
    if not entries:
        return
    total = sum(entry.nbytes for entry in entries)
    reasons = Counter(entry.reason for entry in entries)
    parts = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
    _print_line(console, f"{title}: {len(entries)} tensors, {total:,} bytes: {parts}")
    for entry in entries:
        if entry.is_defect:
            name = printable(entry.name)
            _print_line(console, f"warning: weight {name!r} is left as it is: {entry.reason}")
    large = sorted((entry for entry in entries if entry.can_include), key=lambda e: -e.nbytes)
    if large:
        names = ", ".join(f"{printable(e.name)!r} ({e.nbytes:,} bytes)" for e in large[:MAX_NAMES])
        more = f" and {len(large) - MAX_NAMES} more" if len(large) > MAX_NAMES else ""
        _print_line(console, f"  --include can name {names}{more}")


def _print_line(console: Console, text: str) -> None:
    """Print text as it is, however long."""
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

"""Results of an evaluation: rows, CSV, and tables for the terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from qqonnx.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qqonnx.evaluation.intervals import Interval
    from qqonnx.evaluation.quality import OutputQuality

MEASURES = ("agreement", "kl", "cosine", "sqnr", "relative_error", "max_difference")
"""Fields of `OutputQuality` that a row has for its worst output."""

MAX_OUTPUTS = 8
"""Number of outputs per model in the table of outputs."""


@dataclass(frozen=True)
class Row:
    """Quality and cost of one model.

    Attributes:
        model: the file's name, or "in memory".
        samples: number of samples.
        top1: share of samples that are classified correctly; None without labels.
        top5: share with the correct class among the first five; None without labels or with fewer
            than 6 classes.
        agreement: share of decisions that are the baseline's; None without decisions.
        kl: mean KL(baseline || model) in nats; None without probabilities.
        cosine: mean cosine with the baseline's output.
        sqnr: signal-to-quantization-noise ratio in dB.
        relative_error: root of the mean squared error over the variance; see `OutputQuality`.
        max_difference: largest absolute difference.
        metrics: values of the user's metrics by name.
        intervals: 95 % confidence intervals (lower, upper) of shares and metrics, by name.
        outputs: each output compared with the baseline's.
        bytes: file size, external data included.
        gzip_bytes: file size after gzip.
        brotli_bytes: file size after brotli; None without the package (extra `transfer`).
        zstd_bytes: file size after zstd; None without the package.
        load_ratio: time to load in ONNX Runtime, divided by the baseline's.
        latency_ratio: time of a run, of one image for images, divided by the baseline's.

    All comparisons with the baseline are those of the worst output, and None without a baseline.
    """

    model: str
    samples: int
    top1: float | None
    top5: float | None
    agreement: float | None
    kl: float | None
    cosine: float | None
    sqnr: float | None
    relative_error: float | None
    max_difference: float | None
    bytes: int
    gzip_bytes: int
    brotli_bytes: int | None
    zstd_bytes: int | None
    load_ratio: float | None
    latency_ratio: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    outputs: tuple[OutputQuality, ...] = ()

    @classmethod
    def measured_names(cls) -> list[str]:
        """Return the names of the numbers that every row has."""
        return [name for name in cls.__dataclass_fields__ if name not in _NESTED]

    def numbers(self) -> dict[str, float | None]:
        """Return every number by name: `name`, and `output.name` for each of several outputs."""
        fields = {name: value for name, value in vars(self).items() if name not in _NESTED}
        numbers: dict[str, float | None] = {**fields, **self.metrics}
        if len(self.outputs) > 1:
            for output in self.outputs:
                numbers |= {f"{output.name}.{name}": getattr(output, name) for name in MEASURES}
        return numbers


_NESTED = ("model", "metrics", "intervals", "outputs")


def worst(outputs: Sequence[OutputQuality]) -> dict[str, float | None]:
    """Return each of `MEASURES` for the output where it is worst; None where no output has it."""
    values: dict[str, float | None] = {}
    for name in MEASURES:
        known = [getattr(output, name) for output in outputs if getattr(output, name) is not None]
        is_error = name in ("kl", "relative_error", "max_difference")
        values[name] = (max if is_error else min)(known, default=None)
    return values


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of several models on the same samples.

    Attributes:
        rows: one row per model, the baseline first.
        has_baseline: whether the first row is the baseline.
        data: what the samples are, such as "500 images of IMAGES"; empty without data.
        preprocessing: the preprocessing of images, as JSON; empty for other data.
        preprocessing_source: where the preprocessing comes from.
        unreadable: names of image files that were left out.
        notes: what was left out otherwise, and why.
    """

    rows: tuple[Row, ...]
    has_baseline: bool
    data: str
    preprocessing: str
    preprocessing_source: str
    unreadable: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation for JSON."""
        return asdict(self)

    def to_csv(self) -> str:
        """Return the rows as CSV with a header line; intervals are `NAME_low` and `NAME_high`."""
        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"model": row.model, **row.numbers()}
            for name, (low, high) in row.intervals.items():
                line |= {f"{name}_low": low, f"{name}_high": high}
            lines.append(line)
        text = io.StringIO()
        columns = list(dict.fromkeys(column for line in lines for column in line))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()

    def table(self) -> Table:
        """Return the rows as a table for the terminal; columns without values are left out."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("model", overflow="fold", min_width=10)
        columns = [
            ("top-1 %", [_text(row.top1, ".2f", 100) for row in self.rows]),
            ("top-5 %", [_text(row.top5, ".2f", 100) for row in self.rows]),
            ("agree %", [_text(row.agreement, ".2f", 100) for row in self.rows]),
            ("KL nats", [_text(row.kl, ".4f") for row in self.rows]),
            *(
                (name, [_text(row.metrics.get(name), ".4g") for row in self.rows])
                for name in dict.fromkeys(name for row in self.rows for name in row.metrics)
            ),
            ("MB", [_text(row.bytes, ".3f", 1e-6) for row in self.rows]),
            ("gzip MB", [_text(row.gzip_bytes, ".3f", 1e-6) for row in self.rows]),
            ("brotli MB", [_text(row.brotli_bytes, ".3f", 1e-6) for row in self.rows]),
            ("zstd MB", [_text(row.zstd_bytes, ".3f", 1e-6) for row in self.rows]),
            ("load ×", [_text(row.load_ratio, ".2f") for row in self.rows]),
            ("run ×", [_text(row.latency_ratio, ".2f") for row in self.rows]),
        ]
        columns = [(title, cells) for title, cells in columns if {*cells} != {_NONE}]
        for title, _ in columns:
            table.add_column(escape(printable(title)), justify="right", no_wrap=True)
        for number, row in enumerate(self.rows):
            label = " (baseline)" if self.has_baseline and number == 0 else ""
            table.add_row(escape(row.model) + label, *(cells[number] for _, cells in columns))
        return table

    def output_table(self) -> Table | None:
        """Return the outputs of the compared models as a table; None if nothing was compared.

        Each model has at most `MAX_OUTPUTS` outputs, those with the lowest cosine first.
        """
        compared = self.rows[1:] if self.has_baseline else ()
        rows = [
            (row, output)
            for row in compared
            for output in sorted(row.outputs, key=lambda output: output.cosine)[:MAX_OUTPUTS]
        ]
        if not rows:
            return None
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("model", overflow="fold", min_width=10)
        table.add_column("output", overflow="fold")
        columns = [
            ("agree % (95 %)", [_share(o.agreement, o.agreement_interval) for _, o in rows]),
            ("KL nats", [_text(o.kl, ".4f") for _, o in rows]),
            ("cosine", [_text(o.cosine, ".5f") for _, o in rows]),
            ("SQNR dB", [_text(o.sqnr, ".1f") for _, o in rows]),
            ("error %", [_text(o.relative_error, ".2f", 100) for _, o in rows]),
            ("max diff", [_text(o.max_difference, ".3g") for _, o in rows]),
        ]
        columns = [(title, cells) for title, cells in columns if {*cells} != {_NONE}]
        for title, _ in columns:
            table.add_column(title, justify="right", no_wrap=True)
        for number, (row, output) in enumerate(rows):
            names = (escape(row.model), escape(printable(output.name)))
            table.add_row(*names, *(cells[number] for _, cells in columns))
        return table

    def interval_lines(self) -> list[str]:
        """Return the 95 % confidence intervals of top-1 and of the user's metrics, line by line."""
        lines = []
        names = dict.fromkeys(name for row in self.rows for name in row.intervals)
        for name in names:
            if name in ("agreement", "top5"):
                continue
            is_share = name == "top1"
            form, factor = (".1f", 100) if is_share else (".4g", 1)
            parts = [
                f"{row.model} {low * factor:{form}} to {high * factor:{form}}"
                for row in self.rows
                if name in row.intervals
                for low, high in [row.intervals[name]]
            ]
            label = "top-1 %" if is_share else name
            lines.append(printable(f"{label}, 95 % interval: {', '.join(parts)}"))
        return lines


_NONE = "–"


def _text(value: float | None, form: str, factor: float = 1) -> str:
    return _NONE if value is None else format(factor * value, form)


def _share(share: float | None, interval: Interval | None) -> str:
    if share is None or interval is None:
        return _NONE
    return f"{100 * share:.2f} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"

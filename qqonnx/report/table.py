"""The table of all runs: its columns and the text of each cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.report.formatting import shortened
from qqonnx.report.outcomes import METRIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qqonnx.report.outcomes import Outcome


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: the column of the results file.
        title: the heading, with the unit.
        form: the format of numbers; "" for text.
        factor: the factor that converts numbers to the unit.
        descending: whether the first click sorts in descending order.
    """

    name: str
    title: str
    form: str = ""
    factor: float = 1
    descending: bool = False

    def cell(self, outcome: Outcome) -> str:
        """Return the text of a run's cell."""
        if not self.form:
            return shortened(outcome.text.get(self.name, ""), 40)
        value = outcome.numbers.get(self.name)
        return "" if value is None else self.form.format(value * self.factor)


_COLUMNS = (
    Column("model", "Model"),
    Column("dataset", "Data"),
    Column("file_bytes", "Size, MB", "{:.3f}", 1e-6),
    Column("top1", "Top-1, %", "{:.2f}", 100, descending=True),
    Column("top5", "Top-5, %", "{:.2f}", 100, descending=True),
    Column("agreement", "Agreement, %", "{:.2f}", 100, descending=True),
    Column("kl", "KL, nats", "{:.3g}"),
    Column("cosine", "Cosine", "{:.5f}", descending=True),
    Column("sqnr", "SQNR, dB", "{:.1f}", descending=True),
    Column("bits_per_weight", "Bits per weight", "{:.2f}"),
    Column("gzip_bytes", "Gzip, MB", "{:.3f}", 1e-6),
    Column("brotli_bytes", "Brotli, MB", "{:.3f}", 1e-6),
    Column("weight_error", "Weight error, %", "{:.2f}", 100),
    Column("entropy", "Entropy, bits", "{:.2f}"),
    Column("load_ratio", "Load time ×", "{:.2f}"),
    Column("latency_ratio", "Latency ×", "{:.2f}"),
    Column("method", "Method"),
    Column("granularity", "Granularity"),
    Column("budget", "Budget"),
    Column("bits", "Bits", "{:g}"),
    Column("wall_s", "Run time, s", "{:.1f}"),
    Column("peak_rss_bytes", "Peak memory, MB", "{:.0f}", 1e-6),
)

_FILTERS = ("model", "dataset", "method", "granularity")


def columns_of(outcomes: Sequence[Outcome]) -> list[Column]:
    """Return the columns that have content; model and data only if they differ between runs.

    The user's metrics come before the size.
    """

    def is_informative(column: Column) -> bool:
        cells = {column.cell(outcome) for outcome in outcomes}
        return len(cells) > 1 if column.name in ("model", "dataset") else cells != {""}

    own = [
        Column(
            name,
            shortened(name.removeprefix(METRIC), 30),
            "{:.4g}",
            descending=not any(name in outcome.lower_is_better for outcome in outcomes),
        )
        for name in dict.fromkeys(n for o in outcomes for n in o.numbers if n.startswith(METRIC))
    ]
    return [c for c in (*_COLUMNS[:2], *own, *_COLUMNS[2:]) if is_informative(c)]


def filters_of(outcomes: Sequence[Outcome]) -> list[tuple[str, str, list[str]]]:
    """Return name, title and values of each text column by which the runs can be filtered."""
    filters = []
    for column in _COLUMNS:
        if column.name in _FILTERS:
            values = sorted({column.cell(outcome) for outcome in outcomes} - {""})
            if len(values) > 1:
                filters.append((column.name, column.title, values))
    return filters

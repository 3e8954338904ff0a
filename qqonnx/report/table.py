"""The table of all runs: its columns, and what stands in each cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.report.wording import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qqonnx.report.outcomes import Outcome


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: of the results file's column.
        title: its heading, with the unit.
        form: how numbers are written; empty for text.
        factor: what numbers are multiplied with.
        descending: whether sorting begins with the greatest.
    """

    name: str
    title: str
    form: str = ""
    factor: float = 1
    descending: bool = False

    def cell(self, outcome: Outcome) -> str:
        """Return what the table says of a run."""
        if not self.form:
            return shortened(outcome.text.get(self.name, ""), 40)
        value = outcome.numbers.get(self.name)
        return "" if value is None else self.form.format(value * self.factor)


_COLUMNS = (
    Column("model", "Model"),
    Column("dataset", "Images"),
    Column("file_bytes", "Size, MB", "{:.3f}", 1e-6),
    Column("top1", "Top-1, %", "{:.2f}", 100, descending=True),
    Column("top5", "Top-5, %", "{:.2f}", 100, descending=True),
    Column("agreement", "Agreement, %", "{:.2f}", 100, descending=True),
    Column("kl", "KL, nats", "{:.3g}"),
    Column("bits_per_weight", "Bits a weight", "{:.2f}"),
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
    Column("wall_s", "Run took, s", "{:.1f}"),
    Column("peak_rss_bytes", "Peak memory, MB", "{:.0f}", 1e-6),
)


def columns_of(outcomes: Iterable[Outcome]) -> list[Column]:
    """Return the columns that tell something: not empty; models and images where they differ."""
    found = list(outcomes)

    def tells(column: Column) -> bool:
        cells = {column.cell(outcome) for outcome in found}
        return len(cells) > 1 if column.name in ("model", "dataset") else cells != {""}

    return [column for column in _COLUMNS if tells(column)]


def values_of(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Return what a column of text holds, for a filter."""
    column = Column(name, "")
    return sorted({column.cell(outcome) for outcome in outcomes} - {""})

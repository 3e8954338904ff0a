"""The measurements of a study as rows of numbers, and their JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """All measurements of one run.

    Attributes:
        extent: "full" or "quick".
        setting: models, data, software and hardware of the run, for readers.
        distributions: rows of `measure_distribution`.
        networks: rows of `measure_network`.
        layers: rows of `measure_layer`.
        tails: rows of `measure_tails`.
        exponents: rows of `measure_exponent`.
    """

    extent: str
    setting: dict[str, str]
    distributions: list[Row]
    networks: list[Row]
    layers: list[Row]
    tails: list[Row]
    exponents: list[Row]

    def network_names(self) -> list[str]:
        """Return the names of the networks in order, without Figure 2's small network."""
        names = dict.fromkeys(row["model"] for row in self.networks)
        return [name for name in names if name != "small"]

    def label_of(self, model: str) -> str:
        """Return the label of a network in figures."""
        return next(str(row["label"]) for row in self.networks if row["model"] == model)

    def float_accuracy(self, model: str) -> float:
        """Return the float network's accuracy, as a share of the held-out images."""
        [row] = [r for r in self.networks if r["model"] == model and r["scheme"] is None]
        return float(row["top1"])

    def accuracies(self, model: str, scheme: str, name: str = "top1") -> dict[int, float]:
        """Return the accuracy, or another measure, of a compressed network by bits."""
        return _by_bits(self.networks, name, model=model, scheme=scheme)

    def losses(self, distribution: str, scheme: str, name: str) -> dict[int, float]:
        """Return a measure of quantized values of a distribution by bits."""
        return _by_bits(self.distributions, name, distribution=distribution, scheme=scheme)

    def distribution_cells(self) -> dict[tuple[str, int], dict[str, Row]]:
        """Return the rows of each distribution and bit-width by scheme."""
        return _cells(self.distributions, "distribution")

    def network_cells(self) -> dict[tuple[str, int], dict[str, Row]]:
        """Return the rows of each compressed network and bit-width by scheme."""
        return _cells((row for row in self.networks if row["scheme"] is not None), "model")


def _by_bits(rows: Iterable[Row], name: str, **wanted: str) -> dict[int, float]:
    return {
        row["bits"]: row[name]
        for row in rows
        if all(row[column] == value for column, value in wanted.items())
    }


def _cells(rows: Iterable[Row], column: str) -> dict[tuple[str, int], dict[str, Row]]:
    return {
        (name, bits): {row["scheme"]: row for row in members}
        for (name, bits), members in grouped(rows, column, "bits").items()
    }


def grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows by their values in `columns`, in the order of each group's first row."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def write_results(results: Results, path: Path) -> None:
    """Write the results as JSON."""
    path.write_text(json.dumps(asdict(results), indent=1) + "\n", "utf-8")


def read_results(path: Path) -> Results:
    """Read a file that `write_results` wrote.

    Raises:
        QqonnxError: the file is missing or has other content.
    """
    try:
        return Results(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise QqonnxError(f"{path}: no results of `qqonnx study`: {error}") from error

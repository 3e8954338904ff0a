"""What the study measured: rows of numbers, and how they are written and read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """All measurements of one run.

    Attributes:
        extent: "full" or "quick".
        setting: what was run on what, for the report: names to texts.
        distributions: rows of `DistributionJob`.
        networks: rows of `NetworkJob` with model, label, data, scheme (None: float) and named
            bits.
        layers: rows of `LayerJob` with model and weight.
        tails: rows of `TailsJob` with model, method and bits.
        exponents: rows of `AlphaJob` with model, bits and alpha.
    """

    extent: str
    setting: dict[str, str]
    distributions: list[Row]
    networks: list[Row]
    layers: list[Row]
    tails: list[Row]
    exponents: list[Row]

    def network_names(self) -> list[str]:
        """Return the networks' names in order, without the small one of Figure 2."""
        names = dict.fromkeys(row["model"] for row in self.networks)
        return [name for name in names if name != "small"]

    def label_of(self, model: str) -> str:
        """Return what figures call a network."""
        return next(str(row["label"]) for row in self.networks if row["model"] == model)

    def float_accuracy(self, model: str) -> float:
        """Return the share of held-out images that the float network gets right."""
        [row] = [r for r in self.networks if r["model"] == model and r["scheme"] is None]
        return float(row["top1"])

    def accuracies(self, model: str, scheme: str, name: str = "top1") -> dict[int, float]:
        """Return a network's accuracy (or another measure) by bit-width."""
        return {
            row["bits"]: row[name]
            for row in self.networks
            if row["model"] == model and row["scheme"] == scheme
        }

    def losses(self, distribution: str, scheme: str, name: str) -> dict[int, float]:
        """Return a measure of a distribution's values by bit-width."""
        return {
            row["bits"]: row[name]
            for row in self.distributions
            if row["distribution"] == distribution and row["scheme"] == scheme
        }

    def cells(self) -> Iterator[tuple[str, int, dict[str, Row]]]:
        """Yield (model, bits, rows by scheme) of the compressed networks, the small one too."""
        found: dict[tuple[str, int], dict[str, Row]] = {}
        for row in self.networks:
            if row["scheme"] is not None:
                found.setdefault((row["model"], row["bits"]), {})[row["scheme"]] = row
        for (model, bits), rows in found.items():
            yield model, bits, rows


def write_results(results: Results, path: Path) -> None:
    """Write the results as JSON."""
    path.write_text(json.dumps(asdict(results), indent=1) + "\n", "utf-8")


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        QqonnxError: the file is missing or something else.
    """
    try:
        return Results(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise QqonnxError(f"{path}: no results of `qqonnx study`: {error}") from error

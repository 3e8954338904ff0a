"""The outcome of each run of a sweep, read from the results file and validated."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError, first_line, printable
from qqonnx.sweep.store import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

METRIC = "metrics."
"""Start of the names of numbers that are metrics of the user."""


@dataclass(frozen=True)
class Layer:
    """Storage and error of one compressed weight.

    Attributes:
        name: the weight's name.
        shape: its shape, such as 72×16×1×1.
        weights: its number of values.
        bits: index bits per weight.
        levels: the levels of one codebook.
        entropy: the entropy of the indices, in bits per weight.
        nbytes: bytes of indices, codebooks and scales.
        error: ||decoded - weights|| / ||weights||; None if the sweep did not record it.
    """

    name: str
    shape: str
    weights: int
    bits: float
    levels: int
    entropy: float
    nbytes: int
    error: float | None


@dataclass(frozen=True)
class Histogram:
    """The values of one weight and the levels that represent them.

    Attributes:
        name: the weight's name.
        edges: the bin edges, ascending.
        counts: the number of values in each bin, one entry fewer than edges.
        levels: the used levels, ascending.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True, eq=False)  # identity, not equal contents
class Outcome:
    """The outcome of a run: one row of the results file, with its column names and units.

    Attributes:
        number: the row's position in the file, from 1.
        text: text columns by name.
        numbers: numeric columns by name; finite numbers only.
        settings: columns of JSON objects (options, versions, hardware) by name.
        layers: every compressed weight, in the model's order.
        histograms: histograms of the largest weights.
        lower_is_better: names of the numbers of which less is better.
    """

    number: int
    text: Mapping[str, str]
    numbers: Mapping[str, float]
    settings: Mapping[str, Mapping[str, Any]]
    layers: tuple[Layer, ...]
    histograms: tuple[Histogram, ...]
    lower_is_better: frozenset[str] = frozenset()

    @property
    def status(self) -> str:
        """The status: "done", "failed" or "running"."""
        return self.text["status"]

    @property
    def method(self) -> str:
        """The codebook method or baseline, or "target" for a run with a budget."""
        return self.text.get("method", "")

    @property
    def granularity(self) -> str:
        """The codebook granularity, or ""."""
        return self.text.get("granularity", "")

    @property
    def is_baseline(self) -> bool:
        """Whether the run is a baseline, not one of qqonnx's methods."""
        return bool(self.numbers.get("baseline"))

    @property
    def nbytes(self) -> float:
        """The size of the ONNX file in bytes; a completed run has it."""
        return self.numbers["file_bytes"]

    @property
    def compute(self) -> str:
        """What layers multiply: "float", or a form of "int8"."""
        return str(self.settings.get("options", {}).get("compute", "float"))

    @property
    def run_time(self) -> float | None:
        """The time of a run divided by the float model's; None if it was not measured."""
        return self.numbers.get("latency_ratio")

    @property
    def index_bits(self) -> float | None:
        """The mean index bits per compressed weight; None for floats.

        They differ from the named bits for published PWLQ, which stores one bit more, and for
        a budget, which allocates bits to each weight.
        """
        weights = sum(layer.weights for layer in self.layers)
        if weights:
            return sum(layer.bits * layer.weights for layer in self.layers) / weights
        return self.numbers.get("bits")


_TEXT = (
    "key", "status", "error", "model", "model_sha256", "dataset", "method", "budget", "granularity",
    "started",
)  # fmt: skip
_NUMBERS = (
    "attempts", "samples", "baseline", "bits", "wall_s", "peak_rss_bytes", "weights",
    "bits_per_weight", "file_bytes", "gzip_bytes", "brotli_bytes", "top1", "top5", "agreement",
    "kl", "weight_error", "entropy", "load_ratio", "latency_ratio",
)  # fmt: skip
_SCHEMA_2 = ("cosine", "sqnr")
"""Numbers that rows of schema 1 lack."""

_SETTINGS = ("options", "versions", "hardware")


def read_outcomes(path: Path) -> list[Outcome]:
    """Read the results file of `qqonnx sweep`, in the order in which the runs began.

    Raises:
        QqonnxError: the file is missing, damaged, of another version or of another program, or
            it contains no runs.
    """
    try:
        rows = read_rows(path)
    except sqlite3.Error as error:
        raise QqonnxError(f"{path}: damaged: {first_line(error)}") from error
    if not rows:
        raise QqonnxError(f"{path}: contains no runs")
    return [_validated(path, number, row) for number, row in enumerate(rows, 1)]


def _validated(path: Path, number: int, row: Mapping[str, Any]) -> Outcome:
    try:
        return _outcome(number, row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise QqonnxError(
            f"{path}: run {number} was not written by qqonnx sweep: {first_line(error)}"
        ) from error


def _outcome(number: int, row: Mapping[str, Any]) -> Outcome:
    if row["status"] not in ("done", "failed", "running"):
        raise ValueError(f"status {row['status']!r}")
    metrics = _json("metrics", row.get("metrics"), dict).items()
    own = {METRIC + _text("metrics", name): entry for name, entry in metrics}
    numbers = {name: _number(name, row[name]) for name in _NUMBERS}
    numbers |= {name: _number(name, row.get(name)) for name in _SCHEMA_2}
    numbers |= {name: _number(name, entry["value"]) for name, entry in own.items()}
    return Outcome(
        number=number,
        text={name: _text(name, row[name]) for name in _TEXT if row[name] is not None},
        numbers={name: value for name, value in numbers.items() if value is not None},
        settings={name: _json(name, row[name], dict) for name in _SETTINGS},
        layers=tuple(map(_layer, _json("layers", row["layers"], list))),
        histograms=tuple(map(_histogram, _json("histogram", row["histogram"], list))),
        lower_is_better=frozenset(n for n, entry in own.items() if not entry["higher_is_better"]),
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return printable(value)


def _number(name: str, value: Any) -> float | None:
    """Return a finite number; None for a missing or infinite one."""
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{name} is not a number")
    return value if value is not None and math.isfinite(value) else None


def _json(name: str, value: Any, kind: Callable[[], Any]) -> Any:
    if value is None:
        return kind()
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    content = json.loads(value)
    if type(content) is not kind:
        raise TypeError(f"{name} is JSON of the wrong type")
    return content


def _layer(entry: Mapping[str, Any]) -> Layer:
    sqnr = _number("sqnr", entry["sqnr"])
    return Layer(
        name=_text("name", entry["name"]),
        shape="×".join(str(int(side)) for side in entry["shape"]),
        weights=int(entry["weights"]),
        bits=float(entry["bits"]),
        levels=int(entry["levels"]),
        entropy=float(entry["entropy"]),
        nbytes=int(entry["bytes"]),
        error=None if sqnr is None else 10 ** (-sqnr / 20),
    )


def _histogram(entry: Mapping[str, Any]) -> Histogram:
    edges, counts = tuple(map(float, entry["edges"])), tuple(map(int, entry["counts"]))
    if len(edges) != len(counts) + 1 or not counts:
        raise ValueError("a histogram's bins do not fit their edges")
    levels = tuple(map(float, entry["levels"]))
    return Histogram(_text("name", entry["name"]), edges, counts, levels)

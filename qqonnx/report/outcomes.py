"""What the runs of a sweep came to, read from its results file and checked."""

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


@dataclass(frozen=True)
class Layer:
    """What one weight takes, and what it lost.

    Attributes:
        name: the weight's name.
        shape: its shape, as 72×16×1×1.
        weights: its number of weights.
        bits: bits of index stored a weight.
        levels: levels of a codebook.
        entropy: index entropy in bits a weight.
        nbytes: bytes of indices, codebook and scales.
        error: ||decoded - weights|| / ||weights||; None where the sweep recorded none.
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
    """The values of one weight, and the levels that stand for them.

    Attributes:
        name: the weight's name.
        edges: of the bins, ascending.
        counts: values in each bin, one fewer than edges.
        levels: levels in use, ascending.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True, eq=False)  # a run is itself
class Outcome:
    """What a run came to: a row of the results file, in its columns' names and units.

    Attributes:
        number: its place in the file, from 1.
        text: columns of text that is not JSON, by name.
        numbers: columns of finite numbers, by name.
        settings: columns of JSON objects (options, versions, hardware), by name.
        layers: each compressed weight, in the model's order.
        histograms: of the largest weights.
    """

    number: int
    text: Mapping[str, str]
    numbers: Mapping[str, float]
    settings: Mapping[str, Mapping[str, Any]]
    layers: tuple[Layer, ...]
    histograms: tuple[Histogram, ...]

    @property
    def status(self) -> str:
        """Return "done", "failed" or "running"."""
        return self.text["status"]

    @property
    def method(self) -> str:
        """Return the codebook method or baseline, or "target" for a run to a budget."""
        return self.text.get("method", "")

    @property
    def granularity(self) -> str:
        """Return the codebook's granularity, or nothing."""
        return self.text.get("granularity", "")

    @property
    def is_baseline(self) -> bool:
        """Return whether it is not qqonnx's."""
        return bool(self.numbers.get("baseline"))

    @property
    def index_bits(self) -> float | None:
        """Return the bits of index stored a compressed weight; None for floats.

        PWLQ as published stores one bit more than it is named by, and a budget gives each weight
        its own.
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
_SETTINGS = ("options", "versions", "hardware")


def read_outcomes(path: Path) -> list[Outcome]:
    """Read a results file of `qqonnx sweep`, in the order in which its runs were begun.

    Raises:
        QqonnxError: there is none, it is damaged, of another version or another program, or it
            holds no runs.
    """
    try:
        rows = read_rows(path)
    except sqlite3.Error as error:
        raise QqonnxError(f"{path}: damaged: {first_line(error)}") from error
    if not rows:
        raise QqonnxError(f"{path}: holds no runs")
    return [_checked(path, number, row) for number, row in enumerate(rows, 1)]


def _checked(path: Path, number: int, row: Mapping[str, Any]) -> Outcome:
    try:
        return _outcome(number, row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise QqonnxError(
            f"{path}: run {number}: not as qqonnx sweep writes it: {first_line(error)}"
        ) from error


def _outcome(number: int, row: Mapping[str, Any]) -> Outcome:
    if row["status"] not in ("done", "failed", "running"):
        raise ValueError(f"status {row['status']!r}")
    return Outcome(
        number=number,
        text={name: _text(name, row[name]) for name in _TEXT if row[name] is not None},
        numbers={
            name: value for name in _NUMBERS if (value := _number(name, row[name])) is not None
        },
        settings={name: _json(name, row[name], dict) for name in _SETTINGS},
        layers=tuple(map(_layer, _json("layers", row["layers"], list))),
        histograms=tuple(map(_histogram, _json("histogram", row["histogram"], list))),
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return printable(value)


def _number(name: str, value: Any) -> float | None:
    """Return a finite number, or None for none or one that is not finite."""
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{name} is no number")
    return value if value is not None and math.isfinite(value) else None


def _json(name: str, value: Any, kind: Callable[[], Any]) -> Any:
    if value is None:
        return kind()
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    found = json.loads(value)
    if type(found) is not kind:
        raise TypeError(f"{name} is another kind of JSON")
    return found


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

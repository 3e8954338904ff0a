"""sweep.toml: the configuration of a sweep."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qqonnx.codebooks import METHODS, method_named
from qqonnx.config import (
    AUTO,
    COMPUTE,
    GRANULARITIES,
    Compute,
    Granularity,
    Options,
    Target,
)
from qqonnx.errors import QqonnxError, first_line
from qqonnx.functions import is_function_name
from qqonnx.quantities import parse_share, parse_size
from qqonnx.sweep.baselines import BASELINES, FLOAT32

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same module, before it was part of Python
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALL = "all"
SPLIT = "split"
SYNTHETIC = "none"


@dataclass(frozen=True)
class CalibrationConfig:
    """Calibration inputs for budgets and for calibrated baselines.

    Attributes:
        data: a file or folder; module:function; "split" for images of the data set that are
            excluded from evaluation; "none" for synthetic inputs.
        samples: largest number of samples.
        finetune: whether stored values are tuned end to end afterwards (needs PyTorch).
    """

    data: Path | str = SYNTHETIC
    samples: int = 256
    finetune: bool = False


@dataclass(frozen=True)
class SweepConfig:
    """A grid: each model and data set with each method, bit-width, budget and baseline.

    Attributes:
        path: the file that the configuration comes from.
        results: the results file.
        models: ONNX files, or names of models that `qqonnx export` knows.
        datasets: files, folders, or names of functions, module:function.
        methods: codebook methods.
        bits: bit-widths of the methods.
        granularities: granularities of the methods.
        budgets: one calibrated run each, as written in the file.
        compute: what layers of `auto` and of budgets multiply: "float", or a form of "int8".
        baselines: names of baselines.
        strict: whether a baseline that cannot run is an error; true if baselines are listed.
        calibration: calibration inputs for budgets and some baselines.
        samples: largest number of evaluation images, evenly spaced; None for all.
        threads: threads of one run.
        timings: number of measurements of load time and latency; 0 for none.
        options: options of the methods; its method, bits and granularity are ignored.
        weights: weights of the models that are given by name.
        metrics: metrics of the user: module:function, or names of entry points.
    """

    path: Path
    results: Path
    models: tuple[Path | str, ...]
    datasets: tuple[Path | str, ...]
    methods: tuple[str, ...] = ()
    bits: tuple[int, ...] = (4, 8)
    granularities: tuple[Granularity, ...] = ("tensor",)
    budgets: tuple[str, ...] = ()
    compute: tuple[Compute, ...] = ("float",)
    baselines: tuple[str, ...] = (FLOAT32,)
    strict: bool = True
    calibration: CalibrationConfig | None = None
    samples: int | None = None
    threads: int = 1
    timings: int = 1
    options: Options = field(default_factory=Options)
    weights: str = "DEFAULT"
    metrics: tuple[str, ...] = ()


def read_config(path: Path) -> SweepConfig:
    """Read sweep.toml; paths in it are relative to its folder.

    Raises:
        QqonnxError: the file cannot be read, a key is unknown, or a value does not fit its key.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise QqonnxError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise QqonnxError(f"{path}: not TOML: {first_line(error)}") from error
    try:
        return _config(path, content)
    except QqonnxError as error:
        raise QqonnxError(f"{path}: {error}") from error


def target_of(budget: str) -> Target:
    """Parse a budget: "4.4 bits" (per weight), "2.5MB", "8x" (smaller) or "1%" (answers changed).

    Raises:
        QqonnxError: the text is not a budget.
    """
    kind, value = parts_of(budget)
    try:
        if kind == "bits":
            return Target(bits=float(value))
        if kind == "ratio":
            return Target(ratio=float(value))
        if kind == "max_drop":
            return Target(max_drop=parse_share(value))
        return Target(size=parse_size(value))
    except (ValueError, QqonnxError) as error:
        raise QqonnxError(
            f"{budget!r} is not a budget; examples: '4.4 bits', '2.5MB', '8x', '1%'"
        ) from error


def parts_of(budget: str) -> tuple[str, str]:
    """Return the field of `Target` that a budget sets, and its value as written."""
    text = budget.strip()
    for end, kind in (("bits", "bits"), ("x", "ratio")):
        if text.endswith(end):
            return kind, text.removesuffix(end).strip()
    return ("max_drop" if text.endswith("%") else "size"), text


@dataclass(frozen=True)
class Key:
    """A key of sweep.toml.

    Attributes:
        kind: type of the value, or of each value of a list.
        check: raises a `QqonnxError` for a value that does not fit.
        is_list: whether the value is a list.
    """

    kind: type
    check: Callable[[Any], object] | None = None
    is_list: bool = False


def _between(low: int, high: int | None = None) -> Callable[[int], None]:
    bounds = f"at least {low}" if high is None else f"{low} to {high}"

    def check(value: int) -> None:
        if value < low or (high is not None and value > high):
            raise QqonnxError(f"is {bounds}, not {value}")

    return check


def _one_of(noun: str, known: tuple[str, ...]) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in known:
            raise QqonnxError(f"unknown {noun} {value!r}; known: {', '.join(known)}")

    return check


def _method(name: str) -> None:
    if name != AUTO:
        method_named(name)


KEYS = {
    "results": Key(str),
    "models": Key(str, is_list=True),
    "datasets": Key(str, is_list=True),
    "methods": Key(str, _method, is_list=True),
    "bits": Key(int, _between(1, 8), is_list=True),
    "granularities": Key(str, _one_of("granularity", tuple(GRANULARITIES)), is_list=True),
    "budgets": Key(str, target_of, is_list=True),
    "compute": Key(str, _one_of("form of compute", COMPUTE), is_list=True),
    "baselines": Key(str, _one_of("baseline", tuple(BASELINES)), is_list=True),
    "samples": Key(int, _between(1)),
    "threads": Key(int, _between(1)),
    "timings": Key(int, _between(0)),
    "weights": Key(str),
    "metrics": Key(str, is_list=True),
}
"""Keys at the top of sweep.toml."""

TABLES = {
    "calibration": {
        "data": Key(str),
        "samples": Key(int, _between(1)),
        "finetune": Key(bool),
    },
    "options": {
        "skip": Key(str, is_list=True),
        "include_bias": Key(bool),
        "min_size": Key(int, _between(0)),
    },
}
"""Keys of each table of sweep.toml."""

_KINDS = {str: "a string", int: "a whole number", bool: "true or false"}


def _config(path: Path, content: dict[str, Any]) -> SweepConfig:
    folder = path.resolve().parent
    tables = {}
    for name, keys in TABLES.items():
        table = content.pop(name, {})
        if not isinstance(table, dict):
            raise QqonnxError(f"{name}: must be a table, [{name}]")
        tables[name] = _values(table, keys, f"{name}.")
    strict = content.get("baselines") != ALL
    for name, known in (("methods", METHODS), ("baselines", BASELINES)):
        if content.get(name) == ALL:
            content[name] = list(known)
    values = _values(content, KEYS, "")
    for name in ("models", "datasets"):
        if not values.get(name):
            raise QqonnxError(f"{name}: names none")
    if not values.get("budgets"):
        values.setdefault("methods", tuple(METHODS))
    values["results"] = folder / values.get("results", path.with_suffix(".sqlite").name)
    values["models"] = tuple(_model(entry, folder) for entry in values["models"])
    values["datasets"] = tuple(_data(entry, folder) for entry in values["datasets"])
    calibration = None
    if tables["calibration"]:
        calibration = CalibrationConfig(**tables["calibration"])
        if calibration.data not in (SPLIT, SYNTHETIC):
            calibration = replace(calibration, data=_data(str(calibration.data), folder))
    config = SweepConfig(
        path=path,
        strict=strict,
        calibration=calibration,
        options=Options(**tables["options"]),
        **values,
    )
    calibrated = [name for name in config.baselines if BASELINES[name].calibrated and strict]
    if calibration is None and (config.budgets or calibrated):
        subject = "budgets need" if config.budgets else f"baseline {calibrated[0]} needs"
        raise QqonnxError(f"{subject} a table [calibration] with data")
    return config


def _model(entry: str, folder: Path) -> Path | str:
    path = folder / entry
    return path if path.is_file() or path.suffix == ".onnx" else entry


def _data(entry: str, folder: Path) -> Path | str:
    return entry if is_function_name(entry) else folder / entry


def _values(table: dict[str, Any], keys: dict[str, Key], prefix: str) -> dict[str, Any]:
    """Return the values of a table after checking them; lists become tuples without duplicates."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in keys:
            raise QqonnxError(f"unknown key {prefix}{name}")
        key = keys[name]
        if key.is_list and not isinstance(value, list):
            raise QqonnxError(f"{prefix}{name}: must be a list")
        for entry in value if key.is_list else [value]:
            # In Python, but not in TOML, true is a whole number.
            if not isinstance(entry, key.kind) or (key.kind is int and isinstance(entry, bool)):
                raise QqonnxError(f"{prefix}{name}: {entry!r} is not {_KINDS[key.kind]}")
            try:
                if key.check is not None:
                    key.check(entry)
            except QqonnxError as error:
                raise QqonnxError(f"{prefix}{name}: {error}") from error
        values[name] = tuple(dict.fromkeys(value)) if key.is_list else value
    return values

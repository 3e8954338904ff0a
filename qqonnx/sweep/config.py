"""sweep.toml: what to run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qqonnx.codebooks import METHODS, method_named
from qqonnx.config import GRANULARITIES, Granularity, Options, Target, parse_share, parse_size
from qqonnx.errors import QqonnxError, first_line
from qqonnx.sweep.baselines import BASELINES

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same module, before it came with Python
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALL = "all"
SPLIT = "split"
MADE_UP = "none"


@dataclass(frozen=True)
class CalibrationConfig:
    """Inputs for budgets and for the baselines that need activations.

    Attributes:
        data: a folder of images, or an .npy or .npz file; "split": images of the data set that
            no run is judged by; "none": made-up inputs.
        samples: how many.
        finetune: tune levels, scales and biases end to end afterwards (needs PyTorch).
    """

    data: Path | str
    samples: int = 256
    finetune: bool = False


@dataclass(frozen=True)
class SweepConfig:
    """A grid: every model on every data set by every method at every bit-width, and so on.

    Attributes:
        path: the file it was read from.
        results: the results file.
        models: ONNX files, or names of models that `qqonnx export` knows.
        datasets: folders with one folder of images a class, folders of images, or .npz files.
        methods: codebook methods.
        bits: bit-widths of the methods.
        granularities: of the methods.
        budgets: as the user wrote them; each for a calibrated run.
        baselines: names of what to compare with.
        picky: whether a baseline that cannot run is an error, as each was asked for by name.
        calibration: for budgets and some baselines.
        samples: images to judge by, evenly spread; None for all.
        threads: threads of one run.
        timings: how often load time and latency are measured; 0 for never.
        options: for the methods; its method, bits and granularity do not count.
        weights: weights of models that are named.
    """

    path: Path
    results: Path
    models: tuple[Path | str, ...]
    datasets: tuple[Path, ...]
    methods: tuple[str, ...] = ()
    bits: tuple[int, ...] = (4, 8)
    granularities: tuple[Granularity, ...] = ("tensor",)
    budgets: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ("float32",)
    picky: bool = True
    calibration: CalibrationConfig | None = None
    samples: int | None = None
    threads: int = 1
    timings: int = 1
    options: Options = field(default_factory=Options)
    weights: str = "DEFAULT"


def read_config(path: Path) -> SweepConfig:
    """Read sweep.toml; paths in it are relative to its folder.

    Raises:
        QqonnxError: it cannot be read, a key is unknown, or a value is not what the key takes.
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
    """Read a budget: "4.4 bits" (a weight), "2.5MB", "8x" (smaller) or "1%" (answers changed).

    Raises:
        QqonnxError: it is none.
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
            f"budgets: {budget!r} is none; examples: '4.4 bits', '2.5MB', '8x', '1%'"
        ) from error


def parts_of(budget: str) -> tuple[str, str]:
    """Return which field of a `Target` a budget sets, and the value, as it was written."""
    text = budget.strip()
    for end, kind in (("bits", "bits"), ("x", "ratio")):
        if text.endswith(end):
            return kind, text.removesuffix(end).strip()
    return ("max_drop" if text.endswith("%") else "size"), text


def _config(path: Path, content: dict[str, Any]) -> SweepConfig:
    home = path.resolve().parent
    take = _Table(content, "")
    results = take("results", str, path.with_suffix(".sqlite").name)
    models = take.several("models", str, ())
    datasets = take.several("datasets", str, ())
    baselines, picky = take.names("baselines", tuple(BASELINES), ("float32",), _known_baseline)
    budgets = take.several("budgets", str, ())
    for budget in budgets:
        target_of(budget)
    methods, _ = take.names("methods", tuple(METHODS), () if budgets else tuple(METHODS), _method)
    calibration = _calibration(take.table("calibration"), home)
    found = SweepConfig(
        path=path,
        results=home / results,
        models=tuple(_model(entry, home) for entry in models),
        datasets=tuple(home / entry for entry in datasets),
        methods=methods,
        bits=take.several("bits", int, (4, 8), _from(1, 8)),
        granularities=take.several("granularities", str, ("tensor",), _granularity),
        budgets=budgets,
        baselines=baselines,
        picky=picky,
        calibration=calibration,
        samples=take("samples", int, None, _from(1)),
        threads=take("threads", int, 1, _from(1)),
        timings=take("timings", int, 1, _from(0)),
        options=_options(take.table("options")),
        weights=take("weights", str, "DEFAULT"),
    )
    take.end()
    for name, entries in (("models", models), ("datasets", datasets)):
        if not entries:
            raise QqonnxError(f"{name}: names none")
    needing = [name for name in baselines if BASELINES[name].calibrated and picky]
    if calibration is None and (budgets or needing):
        what = "budgets need" if budgets else f"baseline {needing[0]} needs"
        raise QqonnxError(f"{what} a table [calibration] with data")
    return found


def _calibration(take: _Table, home: Path) -> CalibrationConfig | None:
    if not take.content:
        return None
    data = take("data", str, MADE_UP)
    found = CalibrationConfig(
        data=data if data in (SPLIT, MADE_UP) else home / data,
        samples=take("samples", int, 256, _from(1)),
        finetune=take("finetune", bool, False),
    )
    take.end()
    return found


def _options(take: _Table) -> Options:
    found = Options(
        skip=take.several("skip", str, ()),
        include_bias=take("include_bias", bool, False),
        min_size=take("min_size", int, Options.min_size, _from(0)),
    )
    take.end()
    return found


def _model(entry: str, home: Path) -> Path | str:
    path = home / entry
    return path if path.is_file() or path.suffix == ".onnx" else entry


def _method(name: str) -> str | None:
    try:
        method_named(name)
    except QqonnxError as error:
        return str(error)
    return None


def _known_baseline(name: str) -> str | None:
    known = ", ".join(BASELINES)
    return None if name in BASELINES else f"unknown baseline {name!r}; known: {known}"


def _granularity(name: str) -> str | None:
    known = ", ".join(GRANULARITIES)
    return None if name in GRANULARITIES else f"unknown granularity {name!r}; known: {known}"


def _from(low: int, high: int | None = None) -> Callable[[int], str | None]:
    bounds = f"at least {low}" if high is None else f"{low} to {high}"

    def check(value: int) -> str | None:
        inside = low <= value and (high is None or value <= high)
        return None if inside else f"is {bounds}, not {value}"

    return check


_WORDS = {str: "a string", int: "a whole number", bool: "true or false"}


class _Table:
    """A table of the file, from which keys are taken; those left at the end are unknown."""

    def __init__(self, content: dict[str, Any], name: str) -> None:
        self.content = dict(content)
        self.name = name

    def __call__(
        self, key: str, kind: type, default: Any, check: Callable[[Any], str | None] | None = None
    ) -> Any:
        """Take a single value."""
        if key not in self.content:
            return default
        return self._checked(key, self.content.pop(key), kind, check)

    def several(
        self,
        key: str,
        kind: type,
        default: tuple[Any, ...],
        check: Callable[[Any], str | None] | None = None,
    ) -> tuple[Any, ...]:
        """Take a list of values, without those that are there twice."""
        if key not in self.content:
            return default
        values = self.content.pop(key)
        if not isinstance(values, list):
            raise QqonnxError(f"{self.name}{key}: must be a list")
        return tuple(dict.fromkeys(self._checked(key, value, kind, check) for value in values))

    def names(
        self,
        key: str,
        known: tuple[str, ...],
        default: tuple[str, ...],
        check: Callable[[Any], str | None],
    ) -> tuple[tuple[str, ...], bool]:
        """Take a list of names or the word "all"; return them and whether they were listed."""
        if self.content.get(key) == ALL:
            del self.content[key]
            return known, False
        return self.several(key, str, default, check), True

    def table(self, key: str) -> _Table:
        """Take a table."""
        content = self.content.pop(key, {})
        if not isinstance(content, dict):
            raise QqonnxError(f"{key}: must be a table, [{key}]")
        return _Table(content, f"{key}.")

    def end(self) -> None:
        """Refuse keys that nobody took."""
        for key in self.content:
            raise QqonnxError(f"unknown key {self.name}{key}")

    def _checked(
        self, key: str, value: Any, kind: type, check: Callable[[Any], str | None] | None
    ) -> Any:
        # In Python, though not in TOML, true is a whole number.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise QqonnxError(f"{self.name}{key}: {value!r} is not {_WORDS[kind]}")
        problem = check(value) if check else None
        if problem:
            raise QqonnxError(f"{self.name}{key}: {problem}")
        return value

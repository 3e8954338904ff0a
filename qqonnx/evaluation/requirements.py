"""Requirements that a build asks of a model, such as agreement>=0.97 or bytes<=3MB."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qqonnx.errors import OptionError, printable
from qqonnx.evaluation.results import Row
from qqonnx.quantities import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qqonnx.evaluation.results import Evaluation

_COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}

_BOUNDS = ("_low", "_high")


@dataclass(frozen=True)
class Requirement:
    """A bound of one number of a row.

    Attributes:
        name: name of the number, as in `Row.numbers`.
        comparison: ">=", "<=", ">" or "<".
        limit: the bound.
    """

    name: str
    comparison: str
    limit: float

    def is_met(self, value: float) -> bool:
        """Return whether a value is within the bound; NaN never is."""
        return bool(_COMPARISONS[self.comparison](value, self.limit))


def parse_requirement(text: str, metrics: Iterable[str] = ()) -> Requirement:
    """Read a requirement.

    Args:
        text: a name, a comparison and a limit, which is a number, a share such as 97%, or a size
            such as 3MB.
        metrics: names of the user's metrics.

    Example:
        >>> parse_requirement("bytes <= 3MB")
        Requirement(name='bytes', comparison='<=', limit=3000000.0)

    Raises:
        OptionError: the text is no requirement, or there is no number of that name.
    """
    match = re.fullmatch(r"\s*(\S.*?)\s*(>=|<=|>|<)\s*(\S+)\s*", text)
    if match is None:
        raise OptionError("require", f"must be NAME>=NUMBER or NAME<=NUMBER, not {text}")
    name = match[1]
    known = [*Row.measured_names(), *metrics]
    plain = name.removesuffix(_BOUNDS[0]).removesuffix(_BOUNDS[1])
    if plain not in known and plain.rpartition(".")[2] not in known:
        raise OptionError("require", f"{name} is none of {', '.join(known)}")
    return Requirement(name, match[2], _limit(match[3], text))


def missed(evaluation: Evaluation, requirements: Sequence[Requirement]) -> list[str]:
    """Return what each model but the baseline misses, and by how much.

    Raises:
        OptionError: a number that is required was not measured.
    """
    lines = []
    for row in evaluation.rows[1:] if evaluation.has_baseline else evaluation.rows:
        numbers = row.numbers()
        for name, bounds in row.intervals.items():
            numbers |= {f"{name}{end}": bound for end, bound in zip(_BOUNDS, bounds, strict=True)}
        for required in requirements:
            value = numbers.get(required.name)
            if value is None:
                raise OptionError("require", f"{row.model} has no {required.name}")
            if not required.is_met(value):
                lines.append(f"{row.model}: {_difference(row, required, value)}")
    return [printable(line) for line in lines]


def _difference(row: Row, required: Requirement, value: float) -> str:
    interval = ""
    if required.name in row.intervals:
        low, high = row.intervals[required.name]
        interval = f" (95 % interval {_number(low)} to {_number(high)})"
    return (
        f"{required.name} is {_number(value)}{interval}, not {required.comparison} "
        f"{_number(required.limit)}: missed by {_number(abs(value - required.limit))}"
    )


def _number(value: float) -> str:
    """Return a number as text: sizes in full, others with four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4g}"


def _limit(text: str, requirement: str) -> float:
    number = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(%?)", text, re.IGNORECASE)
    if number is not None:
        return float(number[1]) / (100 if number[2] else 1)
    try:
        return float(parse_size(text))
    except OptionError as error:
        problem = f"{requirement}: {text} is no number, share or size"
        raise OptionError("require", problem) from error

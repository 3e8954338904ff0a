"""The page: everything in one HTML file that needs no network and stays small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from qqonnx.errors import QqonnxError
from qqonnx.model.save import staged
from qqonnx.report import wording
from qqonnx.report.advice import ADVISED_LOSS, advice, certainty, times_smaller
from qqonnx.report.bits import bits_charts
from qqonnx.report.insides import histogram_chart, histogram_words, layers_chart, layers_words
from qqonnx.report.outcomes import read_outcomes
from qqonnx.report.sizes import size_chart, size_words
from qqonnx.report.subjects import LOSSES, Subject, subjects_of
from qqonnx.report.table import columns_of, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from qqonnx.report.outcomes import Outcome

LARGEST = 3_000_000
"""Bytes that the page stays below."""

DETAILS = 1_000_000
"""Characters that layers and histograms take at most."""

MOST_RUNS = 2000
"""Runs that the page shows at most; fewer if they do not fit."""

MOST_LAYERS = 300
"""Layers of a run that are listed, the largest ones."""

MOST_FAILURES = 200


@dataclass(frozen=True)
class Section:
    """A subject's part of the page.

    Attributes:
        subject: what it is about.
        sizes: the chart of sizes.
        bits: granularity, chart and description, of each granularity.
        details: layers and histograms of runs, by number.
    """

    subject: Subject
    sizes: Markup
    bits: list[tuple[str, Markup, str]]
    details: Mapping[int, Markup]


def write_report(results: Path, output: Path) -> list[Subject]:
    """Write the page of a results file, whole or not at all; the same bytes whenever it is written.

    Args:
        results: the results file of `qqonnx sweep`.
        output: the HTML file; replaced if it is there.

    Returns:
        What the page has sections of.

    Raises:
        QqonnxError: the results cannot be read, or the page cannot be written.
    """
    outcomes = read_outcomes(results)
    if output.exists() and output.samefile(results):
        raise QqonnxError(f"{output}: is the results file itself")
    text = _fitting_page(outcomes)
    with staged(output) as written:
        written.write_text(text, "utf-8", newline="\n")
    return subjects_of(outcomes)


def _fitting_page(outcomes: Sequence[Outcome]) -> str:
    limit = MOST_RUNS
    while True:
        text = page(outcomes, limit)
        if len(text.encode()) < LARGEST or limit == 1:
            return text
        limit //= 2


def page(outcomes: Sequence[Outcome], limit: int = MOST_RUNS) -> str:
    """Return the page.

    Args:
        outcomes: what to report.
        limit: runs to show at most; those of frontiers and the baselines come first.
    """
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    shown = _most_telling(done, limit)
    subjects = subjects_of(shown)
    details = _details(subjects)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    return (
        _templates()
        .get_template("page.html")
        .render(
            style=Markup(_resource("page.css")),
            script=Markup(_resource("page.js")),
            outcomes=outcomes,
            done=done,
            shown=shown,
            failed=failed,
            listed_failures=failed[:MOST_FAILURES],
            running=[outcome for outcome in outcomes if outcome.status == "running"],
            sections=[_section(f"s{at}", subject, details) for at, subject in enumerate(subjects)],
            on_frontier={o.number for subject in subjects for o in subject.frontier},
            details=details,
            losses=LOSSES,
            advised=ADVISED_LOSS,
            columns=columns_of(shown),
            filters=[
                (name, title, values)
                for name, title in (
                    ("model", "Model"),
                    ("dataset", "Images"),
                    ("method", "Method"),
                    ("granularity", "Granularity"),
                )
                if len(values := values_of(name, shown)) > 1
            ],
            settings=_settings(done),
            started=sorted(o.text["started"] for o in done if "started" in o.text),
        )
    )


def _most_telling(done: Sequence[Outcome], limit: int) -> list[Outcome]:
    if len(done) <= limit:
        return list(done)
    frontier = {o.number for subject in subjects_of(done) for o in subject.frontier}
    ranked = sorted(done, key=lambda o: (o.number not in frontier, not o.is_baseline, o.number))
    return sorted(ranked[:limit], key=lambda outcome: outcome.number)


def _section(name: str, subject: Subject, details: Mapping[int, Markup]) -> Section:
    return Section(
        subject=subject,
        sizes=size_chart(f"{name}-sizes", subject, frozenset(details)),
        bits=bits_charts(f"{name}-bits", subject),
        details={o.number: details[o.number] for o in subject.frontier if o.number in details},
    )


def _details(subjects: Iterable[Subject]) -> dict[int, Markup]:
    """Return layers and histograms of the frontiers' runs, as many as there is room for."""
    template = _templates().get_template("run.html")
    chosen = [subject.smallest(ADVISED_LOSS) for subject in subjects]
    # Subjects take turns, so that none is left without.
    for turn in zip_longest(*(reversed(subject.frontier) for subject in subjects)):
        chosen += turn
    found: dict[int, Markup] = {}
    room = DETAILS
    for outcome in chosen:
        if outcome is None or not outcome.layers or outcome.number in found:
            continue
        layers = sorted(outcome.layers, key=lambda layer: -layer.weights)[:MOST_LAYERS]
        listed = [layer for layer in outcome.layers if layer in layers]
        text = template.render(outcome=outcome, layers=listed)
        room -= len(text)
        if room < 0:
            break
        found[outcome.number] = Markup(text)
    return found


def _settings(done: Iterable[Outcome]) -> list[tuple[str, str]]:
    """Return what runs were made with and on: names and the values that occur."""
    values: dict[str, set[str]] = {}
    for outcome in done:
        for column in ("versions", "hardware"):
            for name, value in outcome.settings[column].items():
                if name == "memory" and isinstance(value, int):
                    name, value = "memory, GB", f"{value / 1e9:.0f}"
                values.setdefault(wording.shortened(str(name)), set()).add(
                    wording.shortened(str(value))
                )
    return [(name, ", ".join(sorted(found)[:10])) for name, found in values.items()]


@cache
def _templates() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=DictLoader({name: _resource(name) for name in ("page.html", "run.html")}),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    functions: dict[str, Any] = {
        "advice": advice,
        "certainty": certainty,
        "times_smaller": times_smaller,
        "size_words": size_words,
        "layers_chart": layers_chart,
        "layers_words": layers_words,
        "histogram_chart": histogram_chart,
        "histogram_words": histogram_words,
        "label": wording.label,
        "command": wording.command,
        "megabytes": wording.megabytes,
        "percent": wording.percent,
        "points": wording.points,
        "shortened": wording.shortened,
        "unbroken": wording.unbroken,
        "qualities": wording.QUALITIES,
    }
    environment.globals.update(functions)
    return environment


def _resource(name: str) -> str:
    return files("qqonnx.report").joinpath(name).read_text("utf-8")

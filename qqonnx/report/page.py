"""The page: one HTML file that loads nothing from elsewhere and stays small."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from qqonnx.errors import QqonnxError
from qqonnx.model.save import staged
from qqonnx.report import formatting, layers
from qqonnx.report.advice import ADVISED_LOSS, advice, sampling_error, times_smaller
from qqonnx.report.bits import bits_charts
from qqonnx.report.comparisons import LOSSES, RUN_TIMES, Comparison, comparisons_of
from qqonnx.report.formatting import points
from qqonnx.report.outcomes import read_outcomes
from qqonnx.report.sizes import size_chart, size_description
from qqonnx.report.speeds import speed_chart, speed_description
from qqonnx.report.table import columns_of, filters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from qqonnx.report.outcomes import Outcome

LARGEST = 3_000_000
"""Upper bound of the page's size in bytes."""

DETAILS = 1_000_000
"""The most characters of layers and histograms."""

MOST_RUNS = 2000
"""The most runs in the page; fewer if they do not fit."""

MOST_LAYERS = 300
"""The most layers per run; the largest are kept."""

MOST_FAILURES = 200


class Section(NamedTuple):
    """The section of a comparison: its charts, and details by run number."""

    comparison: Comparison
    sizes: Markup
    speeds: Markup | None
    bits: list[tuple[str, Markup, str]]
    details: Mapping[int, Markup]


def write_report(results: Path, output: Path) -> list[Comparison]:
    """Write the page of a results file, completely or not at all.

    The same results give the same bytes.

    Args:
        results: the results file of `qqonnx sweep`.
        output: the HTML file; an existing file is replaced.

    Returns:
        The comparisons, one per section of the page.

    Raises:
        QqonnxError: the results cannot be read, or the page cannot be written.
    """
    outcomes = read_outcomes(results)
    if output.exists() and output.samefile(results):
        raise QqonnxError(f"{output}: is the results file itself")
    text = _fitting_page(outcomes)
    with staged(output) as written:
        written.write_text(text, "utf-8", newline="\n")
    return comparisons_of(outcomes)


def _fitting_page(outcomes: Sequence[Outcome]) -> str:
    limit = MOST_RUNS
    while True:
        text = page(outcomes, limit)
        if len(text.encode()) < LARGEST or limit == 1:
            return text
        limit //= 2


def page(outcomes: Sequence[Outcome], limit: int = MOST_RUNS) -> str:
    """Return the page's HTML.

    Args:
        outcomes: the runs.
        limit: the most runs to show; frontiers come first, then baselines.
    """
    done, failed, running = (
        [outcome for outcome in outcomes if outcome.status == status]
        for status in ("done", "failed", "running")
    )
    shown = _most_relevant(done, limit)
    comparisons = comparisons_of(shown)
    details = _details(comparisons)
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
            running=running,
            sections=_sections(comparisons, details),
            on_frontier={o.number for comparison in comparisons for o in comparison.frontier},
            details=details,
            losses=LOSSES,
            run_times=RUN_TIMES,
            loss_text=_loss_text(comparisons),
            advised=ADVISED_LOSS,
            columns=columns_of(shown),
            filters=filters_of(shown),
            settings=_settings(done),
            started=sorted(o.text["started"] for o in done if "started" in o.text),
        )
    )


def _loss_text(comparisons: Sequence[Comparison]) -> Callable[[float], str]:
    """Return how headings over several comparisons name an accepted loss."""
    kinds = {comparison.kind.is_share: comparison.kind for comparison in comparisons}
    if len(kinds) == 2:
        return lambda loss: f"{points(loss)} or {100 * loss:g} %"
    return next(iter(kinds.values())).loss_text if kinds else points


def _most_relevant(done: Sequence[Outcome], limit: int) -> list[Outcome]:
    if len(done) <= limit:
        return list(done)
    frontier = {o.number for comparison in comparisons_of(done) for o in comparison.frontier}
    ranked = sorted(done, key=lambda o: (o.number not in frontier, not o.is_baseline, o.number))
    return sorted(ranked[:limit], key=lambda outcome: outcome.number)


def _sections(comparisons: Iterable[Comparison], details: Mapping[int, Markup]) -> list[Section]:
    """Return the sections; the details of a run are in the first one whose frontier it is on."""
    sections: list[Section] = []
    remaining = dict(details)
    for number, comparison in enumerate(comparisons):
        name = f"s{number}"
        frontier = [outcome.number for outcome in comparison.frontier]
        section = Section(
            comparison=comparison,
            sizes=size_chart(f"{name}-sizes", comparison, frozenset(details)),
            speeds=speed_chart(f"{name}-speeds", comparison) if len(comparison.timed) > 1 else None,
            bits=bits_charts(f"{name}-bits", comparison),
            details={run: remaining.pop(run) for run in frontier if run in remaining},
        )
        sections.append(section)
    return sections


def _details(comparisons: Iterable[Comparison]) -> dict[int, Markup]:
    """Render layers and histograms of the frontiers' runs, as many as fit, by run number."""
    template = _templates().get_template("run.html")
    chosen = [comparison.smallest(ADVISED_LOSS) for comparison in comparisons]
    # Comparisons take turns, so that each of them gets details.
    for turn in zip_longest(*(reversed(comparison.frontier) for comparison in comparisons)):
        chosen += turn
    details: dict[int, Markup] = {}
    room = DETAILS
    for outcome in chosen:
        if outcome is None or not outcome.layers or outcome.number in details:
            continue
        largest = sorted(outcome.layers, key=lambda layer: -layer.weights)[:MOST_LAYERS]
        listed = [layer for layer in outcome.layers if layer in largest]
        text = template.render(outcome=outcome, layers=listed)
        room -= len(text)
        if room < 0:
            break
        details[outcome.number] = Markup(text)
    return details


def _settings(done: Iterable[Outcome]) -> list[tuple[str, str]]:
    """Return names and values of all settings of software and hardware."""
    values: dict[str, set[str]] = {}
    for outcome in done:
        for column in ("versions", "hardware"):
            for name, value in outcome.settings[column].items():
                if name == "memory" and isinstance(value, int):
                    name, value = "memory, GB", f"{value / 1e9:.0f}"
                values.setdefault(formatting.shortened(str(name)), set()).add(
                    formatting.shortened(str(value))
                )
    return [(name, ", ".join(sorted(texts)[:10])) for name, texts in values.items()]


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
    functions = (
        advice,
        sampling_error,
        times_smaller,
        size_description,
        speed_description,
        layers.layers_chart,
        layers.layers_description,
        layers.histogram_chart,
        layers.histogram_description,
        formatting.label,
        formatting.command,
        formatting.megabytes,
        formatting.shortened,
        formatting.unbroken,
    )
    environment.globals.update({function.__name__: function for function in functions})
    return environment


def _resource(name: str) -> str:
    return files("qqonnx.report").joinpath(name).read_text("utf-8")

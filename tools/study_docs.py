"""Write the numbers and figures of `qqonnx study` into docs/study.md.

    qqonnx study -o STUDY
    python tools/study_docs.py STUDY

Replaces the text between the markers in docs/study.md, and the figures of the page.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.study.claims import claims
from qqonnx.study.mending import mendings
from qqonnx.study.results import Results, read_results
from qqonnx.study.schemes import ALL
from qqonnx.study.summary import answer, limits, network_table

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCS = Path(__file__).parent.parent / "docs"
SHOWN = ("fig2_errors", "fig3_resnet", "predictors", "tails", "mended")
"""Figures that docs/study.md shows, where the run has drawn them."""

LARGEST_FIGURE = 150_000


def main() -> None:
    """Write docs/study.md and docs/figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="the folder that `qqonnx study -o` wrote")
    study: Path = parser.parse_args().study
    results = read_results(study / "study.json")
    figures = DOCS / "figures"
    figures.mkdir(exist_ok=True)
    for name in SHOWN:
        source = study / "figures" / f"{name}.png"
        if source.exists():
            if source.stat().st_size > LARGEST_FIGURE:
                raise SystemExit(f"{source}: over {LARGEST_FIGURE:,} bytes")
            shutil.copyfile(source, figures / source.name)
    page = DOCS / "study.md"
    text = page.read_text("utf-8")
    for name, content in sections(results).items():
        text = replaced(text, name, content)
    page.write_text(text, "utf-8")


def replaced(text: str, name: str, content: str) -> str:
    """Return `text` with the section `name` replaced."""
    start, stop = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = text.partition(start)
    _, ended, after = rest.partition(stop)
    if not (found and ended):
        raise SystemExit(f"docs/study.md: the markers of {name} are missing")
    return f"{before}{start}{content}\n{stop}{after}"


def sections(results: Results) -> dict[str, str]:
    """Return the generated sections as Markdown, by name."""
    labels = {scheme.key: scheme.label for scheme in ALL}

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    verdicts = [
        (claim.statement, f"**{claim.verdict}**", f"{claim.number}. {claim.detail}")
        for claim in claims(results)
    ]
    gaps = [
        (labels[e.scheme], percent(e.error_gap), percent(e.network_gap), percent(e.accuracy))
        for e in mendings(results)
    ]
    setting = [f"- {name}: {text}" for name, text in results.setting.items()]
    shown = [
        f"![{name}](figures/{name}.png)"
        for name in SHOWN
        if (DOCS / "figures" / f"{name}.png").exists()
    ]
    head = ("scheme", "gap closed, distributions, %", "gap closed, networks, %", "mean top-1, %")
    return {
        "claims": table(("the paper says", "verdict", "number"), verdicts),
        "answer": "\n\n".join(answer(results)),
        "mendings": table(head, gaps),
        "networks": table(*network_table(results)),
        "figures": "\n\n".join(shown),
        "limits": "\n\n".join(limits(results)),
        "setting": "\n".join(setting),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    main()

"""The study's page: one HTML file with every figure, and the figures as PNG files."""

from __future__ import annotations

import base64
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from qqonnx.study import figures_analysis, figures_paper
from qqonnx.study.claims import FAILS, HOLDS, IN_PART, claims
from qqonnx.study.drawing import png
from qqonnx.study.results import Results, write_results
from qqonnx.study.summary import answer, limits, network_table
from qqonnx.study.variants import chosen_exponents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


class Figure(NamedTuple):
    """A figure of the page: stem of its PNG file, heading, caption, and drawing function."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Any]


_ACCURACY = (
    "Top-1 accuracy of the compressed ONNX file on held-out images in ONNX Runtime. Weights and "
    "biases have one codebook per tensor; tensors that would not shrink stay float. PWLQ as "
    "published has 2ᵇ⁺¹ − 1 levels at what it calls b bits: dashed at b, solid at the b + 1 bits "
    "that it stores. PWLQ 2ᵇ has 2ᵇ levels in all."
)

_NETWORK_FIGURES = (
    ("fig3_resnet", "Figure 3: ResNet", ("resnet18", "resnet50")),
    ("fig4_mobilenet_small", "Figure 4: MobileNetV3-Small", ("mobilenet_v3_small", "bundled")),
    ("fig5_mobilenet_large", "Figure 5: MobileNetV3-Large", ("mobilenet_v3_large",)),
    ("fig6_googlenet", "Figure 6: GoogLeNet", ("googlenet",)),
)


def figures(results: Results) -> Iterator[Figure]:
    """Yield the figures for which there are results, in the page's order."""
    yield Figure(
        "fig1_schemes",
        "Figure 1: three schemes on one distribution",
        "Bins and levels of UQ, PWLQ and QQ at 3 bits over a histogram of normal values.",
        figures_paper.schemes_on_normal,
    )
    yield Figure(
        "fig2_errors",
        "Figure 2: errors on normal values, and a small network",
        "Pointwise errors, mean losses against bits, the ratio of UQ's loss to QQ's, and the "
        f"accuracy of a small network. {_ACCURACY}",
        partial(figures_paper.errors_on_normal, results),
    )
    yield Figure(
        "fig2b_distributions",
        "Figure 2, other distributions",
        "L1 and L2 loss relative to k-means with as many levels. Below 1 is better than k-means, "
        "which is possible for L1, because k-means minimizes L2.",
        partial(figures_paper.other_distributions, results),
    )
    for name, title, networks in _NETWORK_FIGURES:
        models = [model for model in networks if model in results.network_names()]
        if models:
            yield Figure(name, title, _ACCURACY, partial(figures_paper.accuracies, results, models))
    yield Figure(
        "related",
        "UNIQ and NormalFloat",
        "Levels from a fitted normal distribution: UNIQ has bins of equal mass under it (section "
        "2.3 of the paper), NormalFloat scales its quantiles to the largest magnitude (NF4 at 4 "
        "bits).",
        partial(figures_analysis.related, results),
    )
    if results.layers:
        yield Figure(
            "predictors",
            "What predicts accuracy?",
            "One weight is quantized at a time, all others are float. Top: rank correlation of "
            "each predictor with accuracy, signed so that 1 is a perfect predictor. Bottom: top-1 "
            "lost against three predictors, one dot per weight, method and bit-width.",
            partial(figures_analysis.predictors, results),
        )
    if results.tails:
        yield Figure(
            "tails",
            "Why QQ fails at the tails",
            "QQ's lowest and highest bin hold 2/2ᵇ of the values but most of the squared error: "
            "one level represents all values from the bin's threshold to the largest weight. "
            "Output error: squared error weighted with the activations' second moments. Right: "
            "networks with all bins quantized, with only the two outermost bins quantized, and "
            "with all other bins quantized.",
            partial(figures_analysis.tails, results),
        )
    if results.exponents:
        yield Figure(
            "exponents",
            "QQ-alpha: between UQ and QQ",
            "Levels with density f^α and one α for the whole network: squared error of all "
            "weights, KL to the float outputs on calibration images, accuracy on held-out images.",
            partial(figures_analysis.exponents, results),
        )
    yield Figure(
        "variants",
        "Which variant closes the gap to k-means?",
        "Closed share of the gap between QQ (0) and k-means (100) in the logarithm of the squared "
        "error, mean over bits from 2; and mean top-1 of all networks at 2 to 5 bits. A negative "
        "share is worse than QQ.",
        partial(figures_analysis.variants, results),
    )
    yield Figure(
        "variant_accuracies",
        "QQ's variants on every network",
        "Top-1 accuracy of the compressed files at 2 to 6 bits.",
        partial(figures_analysis.variant_accuracies, results),
    )


def write_report(
    results: Results, folder: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> Path:
    """Write `report.html`, `figures/*.png` and `study.json` into `folder`.

    Args:
        results: the measurements.
        folder: created if missing; existing files with these names are replaced.
        progress: called with the number of figures just drawn and the number of all figures.

    Returns:
        The path of the HTML file.
    """
    images = folder / "figures"
    images.mkdir(parents=True, exist_ok=True)
    write_results(results, folder / "study.json")
    pending = list(figures(results))
    drawn = []
    for figure in pending:
        image = png(figure.draw)
        (images / f"{figure.name}.png").write_bytes(image)
        drawn.append((figure, image))
        progress(1, len(pending))
    page = folder / "report.html"
    page.write_text(_page(results, drawn), "utf-8")
    return page


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:2rem auto;max-width:72rem;
padding:0 1.2rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.25rem;margin-top:2.4rem}
table{border-collapse:collapse;margin:1rem 0;font-size:.95rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .7rem;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}
img{max-width:100%;height:auto}figure{margin:1.5rem 0}figcaption{color:#555;max-width:58rem}
.verdict{font-weight:600;white-space:nowrap}.detail{color:#555;font-size:.9rem}
.quick{background:#fff4d6;padding:.5rem .8rem;border-left:4px solid #E69F00}
"""

_MARKS = {HOLDS: ("✓", "#007a5a"), IN_PART: ("◐", "#8a6100"), FAILS: ("✗", "#a83c00")}


def _page(results: Results, drawn: Sequence[tuple[Figure, bytes]]) -> str:
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>Quantile Quantization, run again</title><style>{_STYLE}</style></head><body>",
        "<h1>Quantile Quantization, run again</h1>",
        "<p>The paper's figures with new measurements, and a verdict on each of its claims.</p>",
    ]
    if results.extent == "quick":
        parts.append(
            '<p class="quick">A quick run: one network and a small one, few bit-widths, every fifth'
            " weight. <code>qqonnx study</code> without <code>--quick</code> runs everything.</p>"
        )
    parts.append("<h2>Claims</h2>" + _claims_table(results))
    parts.append("<h2>The open question</h2>")
    parts += [f"<p>{escape(text)}</p>" for text in answer(results)]
    parts.append(
        "<h2>How many bits a network needs</h2><p>The fewest stored bits per weight from which a "
        "network loses at most one point of accuracy. PWLQ as published counts with its extra "
        "bit.</p>" + _html_table(*network_table(results))
    )
    for figure, image in drawn:
        source = base64.b64encode(image).decode("ascii")
        parts.append(
            f'<h2>{escape(figure.title)}</h2><figure><img alt="{escape(figure.caption)}" '
            f'src="data:image/png;base64,{source}"><figcaption>{escape(figure.caption)}'
            "</figcaption></figure>"
        )
        if figure.name == "exponents":
            parts.append(_exponents_table(results))
    parts.append("<h2>Setting and limits</h2>")
    parts += [f"<p>{escape(text)}</p>" for text in limits(results)]
    parts.append(_html_table(("", ""), list(results.setting.items())))
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _claims_table(results: Results) -> str:
    rows = []
    for claim in claims(results):
        mark, color = _MARKS.get(claim.verdict, ("–", "#555"))
        rows.append(
            f"<tr><td>{escape(claim.statement)}</td>"
            f'<td class="verdict" style="color:{color}">{mark} {escape(claim.verdict)}</td>'
            f'<td>{escape(claim.number)}<div class="detail">{escape(claim.detail)}</div></td></tr>'
        )
    return (
        "<table><tr><th>The paper says</th><th>Verdict</th><th>Number</th></tr>"
        + "".join(rows)
        + "</table>"
    )


def _exponents_table(results: Results) -> str:
    rows = [
        (
            results.label_of(row["model"]),
            str(row["bits"]),
            *(
                f"{100 * row[kind]['top1']:.1f} % (α = {row[kind]['alpha']:.2f})"
                for kind in ("by_error", "by_calibration", "plain")
            ),
        )
        for row in chosen_exponents(results)
    ]
    head = ("network", "bits", "α of least error: top-1", "α of least calibration KL", "α = 1")
    return _html_table(head, rows)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = [f"<td>{escape(row[0])}</td>"]
        for cell in row[1:]:
            number = cell[:1].isdigit() or cell in ("more", "–")
            cells.append(f"<td{' class=n' if number else ''}>{escape(cell)}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "".join(lines) + "</table>"

"""The report: one HTML file with every figure in it, and the figures as PNG files."""

from __future__ import annotations

import base64
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from qqonnx.study import figures_ours, figures_paper
from qqonnx.study.claims import FAILS, HOLDS, IN_PART, claims
from qqonnx.study.drawing import png
from qqonnx.study.mending import chosen_exponents
from qqonnx.study.results import Results, write_results
from qqonnx.study.summary import answer, limits, network_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


class FigureOf(NamedTuple):
    """A figure of the report.

    Attributes:
        name: of its PNG file.
        title: its heading.
        caption: what it shows.
        draw: returns it.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Any]


_ACCURACY = (
    "Top-1 accuracy on held-out images of the compressed ONNX file in ONNX Runtime: weights and "
    "biases, one codebook a tensor; tensors too small to gain stay float. PWLQ as published has "
    "2ᵇ⁺¹ − 1 levels at what it calls b bits: dashed at b, solid at the b + 1 bits it stores; "
    "PWLQ 2ᵇ has 2ᵇ levels in all."
)


def figures(results: Results) -> Iterator[FigureOf]:
    """Yield the figures that the results have numbers for, in the report's order."""
    yield FigureOf(
        "fig1_schemes",
        "Figure 1: three schemes on one distribution",
        "Bins and levels of UQ, PWLQ and QQ at 3 bits over a histogram of normal values.",
        figures_paper.schemes_on_normal,
    )
    yield FigureOf(
        "fig2_errors",
        "Figure 2: errors on normal values, and a small network",
        "Pointwise errors, mean losses by bit-width, the ratio of UQ's to QQ's, and the accuracy "
        "of a small network. " + _ACCURACY,
        partial(figures_paper.errors_on_normal, results),
    )
    yield FigureOf(
        "fig2b_distributions",
        "Figure 2, other distributions",
        "L1 and L2 loss over that of k-means at as many levels; below 1 is better than k-means "
        "(possible for L1, which k-means does not minimize).",
        partial(figures_paper.other_distributions, results),
    )
    names = results.network_names()
    groups = {
        "fig3_resnet": ("Figure 3: ResNet", ["resnet18", "resnet50"]),
        "fig4_mobilenet_small": ("Figure 4: MobileNetV3-Small", ["mobilenet_v3_small", "bundled"]),
        "fig5_mobilenet_large": ("Figure 5: MobileNetV3-Large", ["mobilenet_v3_large"]),
        "fig6_googlenet": ("Figure 6: GoogLeNet", ["googlenet"]),
    }
    for name, (title, wanted) in groups.items():
        models = [model for model in wanted if model in names]
        if models:
            yield FigureOf(
                name, title, _ACCURACY, partial(figures_paper.accuracies, results, models)
            )
    yield FigureOf(
        "related",
        "UNIQ and NormalFloat",
        "Levels from a fitted normal distribution: UNIQ's bins of equal mass under it (section 2.3 "
        "of the paper), NormalFloat's quantiles scaled to the greatest magnitude (NF4 at 4 bits).",
        partial(figures_paper.related, results),
    )
    if results.layers:
        yield FigureOf(
            "predictors",
            "What predicts accuracy?",
            "One weight quantized at a time, all others float. Above: rank correlation of each "
            "predictor with accuracy, signs turned so that 1 is a perfect predictor. Below: top-1 "
            "lost against three of them, a dot for each weight, method and bit-width.",
            partial(figures_ours.predictors, results),
        )
    if results.tails:
        yield FigureOf(
            "tails",
            "Why QQ fails at the tails",
            "The lowest and the highest bin of QQ hold 2/2ᵇ of the values, and most of the squared "
            "error: one level stands for everything from the bin's threshold to the greatest "
            "weight. Output error: squared error weighted with the activations' second moments. "
            "Right: networks with all bins quantized, only the outer two, or all but these.",
            partial(figures_ours.tails, results),
        )
    if results.exponents:
        yield FigureOf(
            "exponents",
            "QQ-alpha: between UQ and QQ",
            "Levels as dense as f^α, one α for the whole network: squared error of all weights, KL "
            "to the float outputs on calibration images, accuracy on held-out ones.",
            partial(figures_ours.exponents, results),
        )
    yield FigureOf(
        "mended",
        "Which mending closes the gap to k-means?",
        "Share of the gap between QQ (0) and k-means (100) in the logarithm of the squared error, "
        "mean over bit-widths from 2; and mean top-1 of all networks at 2 to 5 bits. A negative "
        "gap: worse than QQ.",
        partial(figures_ours.mended, results),
    )
    yield FigureOf(
        "mended_accuracy",
        "Mended schemes on every network",
        "Top-1 accuracy of the compressed files, 2 to 6 bits.",
        partial(figures_ours.mended_accuracies, results),
    )


def write_report(
    results: Results, folder: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> Path:
    """Write `report.html`, `figures/*.png` and `study.json` into `folder`.

    Args:
        results: what to report.
        folder: made if need be; files of these names are replaced.
        progress: called with the figures just drawn and in all.

    Returns:
        The path of the HTML file.
    """
    images = folder / "figures"
    images.mkdir(parents=True, exist_ok=True)
    write_results(results, folder / "study.json")
    wanted = list(figures(results))
    drawn = []
    for figure in wanted:
        image = png(figure.draw)
        (images / f"{figure.name}.png").write_bytes(image)
        drawn.append((figure, image))
        progress(1, len(wanted))
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


def _page(results: Results, drawn: Sequence[tuple[FigureOf, bytes]]) -> str:
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>Quantile Quantization, run again</title><style>{_STYLE}</style></head><body>",
        "<h1>Quantile Quantization, run again</h1>",
        "<p>Every figure of the paper with our numbers, and what of its claims held up.</p>",
    ]
    if results.extent == "quick":
        parts.append(
            '<p class="quick">A quick run: one network and a small one, few bit-widths, every fifth'
            " weight. Run <code>qqonnx study</code> without <code>--quick</code> for all.</p>"
        )
    parts.append("<h2>Claims</h2>" + _claims_table(results))
    parts.append("<h2>The open question</h2>")
    parts += [f"<p>{escape(text)}</p>" for text in answer(results)]
    parts.append(
        "<h2>How many bits a network takes</h2><p>Stored bits a weight from which on a network "
        "loses at most one point of accuracy; PWLQ as published counted with its extra bit.</p>"
        + _html_table(*network_table(results))
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
    parts.append("<h2>How, and what cannot be compared</h2>")
    parts += [f"<p>{escape(text)}</p>" for text in limits(results)]
    rows = [(name, text) for name, text in results.setting.items()]
    parts.append(_html_table(("", ""), rows))
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

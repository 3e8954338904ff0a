"""Recommendations against brute force, the page against the results, and rejected input."""

from __future__ import annotations

import json
import re
import sqlite3
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_rows import codebook, done, small_sweep, write_results

from qqonnx.cli import app, main
from qqonnx.errors import QqonnxError
from qqonnx.report.comparisons import Comparison, comparisons_of
from qqonnx.report.formatting import command, label
from qqonnx.report.outcomes import Outcome, read_outcomes
from qqonnx.report.page import write_report
from qqonnx.report.svg import Box, Label, placed_labels, spread

SHARES = st.integers(0, 20).map(lambda share: share / 20)
RUNS = st.lists(st.tuples(st.integers(1, 8), SHARES, st.booleans()), min_size=1, max_size=12)


def outcome(number: int, nbytes: int, share: float, method: str, baseline: bool) -> Outcome:
    numbers = {"file_bytes": nbytes, "top1": share, "baseline": int(baseline), "samples": 20}
    text = {"status": "done", "method": method, "model": "net"}
    return Outcome(number, text, numbers, {"options": {}}, (), ())


def comparison(runs: list[tuple[int, float, bool]], float_share: float) -> Comparison:
    actual = [outcome(1, 9, float_share, "float32", True)]
    for number, (nbytes, share, baseline) in enumerate(runs, 2):
        actual.append(outcome(number, nbytes, share, "other" if baseline else "uq", baseline))
    (only,) = comparisons_of(actual)
    return only


class Texts(HTMLParser):
    """The text and attributes of a page, and the rows of its tables by id of table or body."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.links, self.ids, self.sources = "", [], set(), []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        actual = dict(attrs)
        if "id" in actual:
            assert actual["id"] not in self.ids, "ids are unique"
            self.ids.add(actual["id"])
        if tag in ("td", "th"):
            self.text += " "
        if tag == "a":
            self.links.append(actual["href"])
        self.sources += [
            actual[key] for key in ("src", "srcset", "data", "action") if key in actual
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(RUNS, SHARES)
def test_nothing_beats_the_frontier(runs, float_share) -> None:
    one = comparison(runs, float_share)
    size = {o.number: o.numbers["file_bytes"] for o in one.outcomes}
    frontier = {o.number for o in one.frontier}
    for mine in one.outcomes:
        is_beaten = any(
            size[other.number] <= size[mine.number]
            and one.score(other) >= one.score(mine)
            and (size[other.number], -one.score(other)) != (size[mine.number], -one.score(mine))
            for other in one.outcomes
        )
        if is_beaten:
            assert mine.number not in frontier
        else:  # it or a run like it
            assert any(
                (size[n], q) == (size[mine.number], one.score(mine))
                for n, q in ((o.number, one.score(o)) for o in one.frontier)
            )


@given(RUNS, SHARES, st.sampled_from([0.0, 0.05, 0.2]), st.booleans())
def test_smallest_file_within_a_loss(runs, float_share, loss, baseline) -> None:
    one = comparison(runs, float_share)
    good = [
        o
        for o in one.outcomes[1:]
        if round(20 * (float_share - one.score(o))) <= round(20 * loss)
        and (o.is_baseline or not baseline)
    ]
    pick = one.smallest(loss, baseline=baseline)
    if not good:
        assert pick is None
    else:
        assert pick in good
        assert pick.numbers["file_bytes"] == min(o.numbers["file_bytes"] for o in good)


@given(st.lists(st.floats(0, 100), max_size=30).map(sorted))
def test_labels_are_moved_apart(heights) -> None:
    placed = spread(heights, 0, 500)
    assert len(placed) == len(heights)
    gap = min(14, 500 / max(len(heights) - 1, 1))
    for upper, lower in pairwise(placed):
        assert lower - upper >= gap - 1e-6
    assert all(-1e-6 <= height <= 500 + 1e-6 for height in placed)


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 300)), max_size=12))
def test_labels_cover_neither_marks_nor_each_other(places) -> None:
    area = Box(0, 0, 300, 300)
    marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    labels = [Label(x, y, "words", "", ("above left", "below right")) for x, y in places]
    drawn = re.findall(r'x="([\d.-]+)" y="([\d.-]+)"([^>]*)', placed_labels(labels, area, marks))
    boxes = []
    for x, y, rest in drawn:
        right = float(x) if "end" in rest else float(x) + 30
        box = Box(right - 30, float(y) - 9, right, float(y) + 2)
        assert not any(box.meets(other) for other in [*marks, *boxes])
        boxes.append(box)


def test_page_says_what_to_pick(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results.sqlite", small_sweep())
    (one,) = write_report(results, tmp_path / "report.html")
    actual = Texts((tmp_path / "report.html").read_text("utf-8"))
    text = " ".join(actual.text.split())
    assert label(one.smallest(0.01)) == "kmeans 4 bits"
    assert (
        "the smallest file within 1 point of float (90.0 % top-1 accuracy, 6.00 MB) is "
        "kmeans 4 bits: 0.78 MB, 7.7 times smaller, 89.5 %. The smallest baseline as good, "
        "ort-dynamic-int8, takes 1.60 MB." in text
    )
    assert "qqonnx convert net.onnx -o small.onnx --method kmeans --bits 4" in text
    assert {link[1:] for link in actual.links} <= actual.ids, "links lead to the page itself"
    assert actual.sources == []


def test_every_run_is_in_the_table(tmp_path: Path) -> None:
    rows = small_sweep()
    rows += [codebook("kmeans", 3, 0.8, granularity="scale")]
    rows += [done("target", 500_000, 0.88, budget="2.5 bits")]
    results = write_results(tmp_path / "results.sqlite", rows)
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    table = page[page.index('<table id="table">') :]
    table = table[: table.index("</table>")]
    assert table.count('<th scope="row">') == len(rows)
    for row in rows:
        assert f"{row['file_bytes'] / 1e6:.3f}" in table
        assert f"{100 * row['top1']:.2f}" in table


def test_failed_and_unfinished_runs(tmp_path: Path) -> None:
    failed = {"status": "failed", "model": "net", "method": "qq", "bits": 4, "baseline": 0}
    rows = [
        *small_sweep(),
        {**failed, "error": "net.onnx: <no> such weight"},
        {**failed, "status": "running"},
    ]
    results = write_results(tmp_path / "results.sqlite", rows)
    write_report(results, tmp_path / "report.html")
    text = " ".join(Texts((tmp_path / "report.html").read_text("utf-8")).text.split())
    assert "8 done, 1 failed, 1 in progress or interrupted" in text
    assert "qq 4 bits net 1 net.onnx: <no> such weight" in text
    alone = write_results(tmp_path / "failed.sqlite", [rows[-2]])
    assert write_report(alone, tmp_path / "failed.html") == []
    assert "nothing to compare yet" in (tmp_path / "failed.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([done("float32", 6_000_000, 0.9)], "only the float model was run"),
        ([codebook("uq", 4, 0.7), codebook("uq", 5, 0.8)], "The best of 2 runs is uq 5 bits"),
        (
            [done("float32", 6_000_000, 0.9), codebook("uq", 4, 0.7)],
            "no run stays within 1 point of float (90.0 % top-1 accuracy, 6.00 MB). The closest is "
            "uq 4 bits: 0.78 MB, 7.7 times smaller, 70.0 %, which loses 20.0 points",
        ),
        (
            [
                done("float32", 6_000_000, 0.9),
                done("float16", 3_000_000, 0.9),
                codebook("uq", 4, 0),
            ],
            "It is a baseline",
        ),
        (
            [done("float32", 6_000_000, None, agreement=1.0), codebook("uq", 4, None, agreement=1)],
            "(6.00 MB, scored by agreement with its answers) is uq 4 bits",
        ),
        (
            [done("float32", 6_000_000, 0.9), done("ort-x", 9, 0.1), codebook("uq", 4, 0.9)],
            "No baseline is as good",
        ),
    ],
    ids=["float", "no-float", "none", "baseline", "agreement", "no-rival"],
)
def test_few_runs(tmp_path: Path, rows, words) -> None:
    results = write_results(tmp_path / "results.sqlite", rows)
    write_report(results, tmp_path / "report.html")
    assert words in " ".join(Texts((tmp_path / "report.html").read_text("utf-8")).text.split())


def test_runs_that_cannot_be_compared_are_separate() -> None:
    def run(number: int, **changes: str) -> Outcome:
        actual = outcome(number, number, 0.5, "uq", baseline=False)
        actual.text.update({"model_sha256": "a", "dataset": "images", **changes})
        return actual

    actual = [run(1), run(2, model_sha256="b"), run(3, dataset="others"), run(4, model="more")]
    actual.append(run(5))
    actual[-1].numbers["samples"] = 7
    names = [one.name for one in comparisons_of(actual)]
    assert len(set(names)) == len(actual)


def test_same_results_same_page(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        results = write_results(tmp_path / f"{name}.sqlite", small_sweep())
        write_report(results, tmp_path / f"{name}.html")
        pages.append((tmp_path / f"{name}.html").read_bytes())
    assert pages[0] == pages[1]


def large_sweep(models: int, layers: int, runs: int, name: str = "net"):
    for model in range(models):
        about = {"model": f"{name}{model}", "model_sha256": f"{model:064x}"}
        yield done("float32", 6_000_000, 0.9, **about)
        for at in range(runs):
            bits = 1 + at % 8
            top1 = 0.9 - 0.5**bits - at * 1e-4
            row = codebook(("uq", "kmeans", "qq")[at % 3], bits, top1, layers)
            yield {**row, **about, "file_bytes": row["file_bytes"] - at * 7}


@pytest.mark.parametrize(
    ("models", "layers", "runs"), [(10, 60, 99), (2, 2000, 9)], ids=["many", "deep"]
)
def test_page_stays_small(tmp_path: Path, models, layers, runs) -> None:
    rows = list(large_sweep(models, layers, runs))
    results = write_results(tmp_path / "results.sqlite", rows)
    assert len(write_report(results, tmp_path / "report.html")) == models
    page = (tmp_path / "report.html").read_text("utf-8")
    assert len(page.encode()) < 3_000_000
    assert page[page.index('<table id="table">') :].count('<th scope="row">') >= len(rows)
    assert len(re.findall(r'<details class="run"', page)) >= models
    assert "What this page leaves out" in page


def test_page_says_what_it_leaves_out(tmp_path: Path, monkeypatch) -> None:
    rows = list(large_sweep(5, 3, 60, "net" * 50))
    results = write_results(tmp_path / "results.sqlite", rows)
    monkeypatch.setattr("qqonnx.report.page.LARGEST", 500_000)
    comparisons = write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert len(page.encode()) < 500_000
    (shown,) = re.findall(r"This page shows (\d+) of 305 runs", page)
    assert 0 < int(shown) < 305
    assert page[page.index('<table id="table">') :].count('<th scope="row">') >= int(shown)
    assert page.count('<th scope="row">float32') == len(comparisons) == 5


def test_names_are_text(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>\u202e\x00<img src=//x>'
    rows = [
        {**row, "model": evil, "granularity": evil, "versions": json.dumps({evil: evil})}
        for row in small_sweep()
    ]
    rows.append({"status": "failed", "model": evil, "method": evil, "budget": evil, "error": evil})
    rows += [done(evil, 1000, 0.4, layers=rows[3]["layers"].replace("features", "<script>"))]
    results = write_results(tmp_path / "results.sqlite", rows)
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "\x00" not in page
    assert "\u202e" not in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top1": "many"}, "top1 is not a number"),
        ({"layers": "[{]"}, "was not written by qqonnx sweep"),
        ({"layers": "{}"}, "layers is JSON of the wrong type"),
        ({"layers": '[{"name": "a"}]'}, "was not written by qqonnx sweep"),
        ({"layers": "[7]"}, "was not written by qqonnx sweep"),
        ({"histogram": '[{"name": "a", "edges": [1], "counts": [2], "levels": []}]'}, "bins"),
        ({"status": "odd"}, "status 'odd'"),
        ({"model": b"net"}, "model is not text"),
    ],
)
def test_rows_that_are_not_sweeps(tmp_path: Path, changes, words) -> None:
    rows = small_sweep()
    rows[2] = {**rows[2], **changes}
    results = write_results(tmp_path / "results.sqlite", rows)
    with pytest.raises(QqonnxError, match=words) as caught:
        write_report(results, tmp_path / "report.html")
    assert "run 3" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.sqlite"]


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as store:
        store.execute("CREATE TABLE other (a)")


def newer(path: Path) -> None:
    write_results(path, small_sweep())
    with sqlite3.connect(path) as store:
        store.execute("UPDATE meta SET value = '999'")


def without_columns(path: Path) -> None:
    write_results(path, small_sweep())
    with sqlite3.connect(path) as store:
        store.execute("ALTER TABLE runs DROP COLUMN top1")


def damaged(path: Path) -> None:
    write_results(path, small_sweep() * 40)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "make",
    [
        foreign,
        newer,
        without_columns,
        damaged,
        lambda path: write_results(path, []),
        lambda path: path.write_text("no database, though a long enough text"),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        lambda path: None,
    ],
    ids=["foreign", "newer", "columns", "damaged", "no-runs", "text", "empty", "folder", "none"],
)
def test_other_files_are_one_line(tmp_path: Path, make, capsys, monkeypatch) -> None:
    results = tmp_path / "results.sqlite"
    make(results)
    before = sorted(path.name for path in tmp_path.iterdir())
    page = tmp_path / "report.html"
    monkeypatch.setattr("sys.argv", ["qqonnx", "report", str(results), "-o", str(page)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {results}: ")
    assert message.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results.sqlite", small_sweep())
    content = results.read_bytes()
    for output in (results, tmp_path / "none" / "report.html"):
        with pytest.raises(QqonnxError, match=re.escape(str(output))):
            write_report(results, output)
    assert results.read_bytes() == content


def test_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    results = write_results(tmp_path / "results.sqlite", small_sweep())
    page = tmp_path / "page.html"
    run = CliRunner().invoke(app, ["report", str(results), "-o", str(page)])
    assert "net: the smallest file within 1 point of float" in run.stdout
    assert run.stdout.endswith(f"{page}\n")
    as_json = CliRunner().invoke(app, ["report", str(results), "-o", str(page), "--json"])
    (one,) = json.loads(as_json.stdout)["subjects"]
    keys = [row.text["key"] for row in read_outcomes(results)]
    assert one["picks"] == {"0": keys[4], "1": keys[3], "2": keys[3], "5": keys[3]}
    assert [keys.index(key) for key in one["frontier"]] == [2, 3, 4]
    quiet = CliRunner().invoke(app, ["report", str(results), "-o", str(page), "--quiet"])
    assert quiet.stdout == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": "4.4 bits"}, "--target-bits 4.4"),
        ({"budget": "2.5MB"}, "--target-size 2.5MB"),
        ({"budget": "8x"}, "--target-ratio 8"),
        ({"budget": "1%"}, "--max-drop 1%"),
    ],
)
def test_command_of_a_budget(tmp_path: Path, changes, words) -> None:
    options = {"skip": ["a b*"], "min_size": 5, "calibration": {"samples": 60, "finetune": True}}
    row = done("target", 1000, 0.5, options=json.dumps(options), **changes)
    (actual,) = read_outcomes(write_results(tmp_path / "results.sqlite", [row]))
    assert command(actual) == (
        f"qqonnx convert net.onnx -o small.onnx {words} --calibration DATA "
        "--skip 'a b*' --min-size 5 --calibration-samples 60 --finetune"
    )


def luminance(color: str) -> float:
    shares = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colors_can_be_read(scheme: int) -> None:
    """WCAG 2.2 requires a contrast of 4.5 to 1 for text and 3 to 1 for marks."""
    style = files("qqonnx.report").joinpath("page.css").read_text("utf-8")
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colors = {name: luminance((light, dark)[scheme]) for name, light, dark in pairs}
    series = [f"c{number}" for number in range(7)]
    for name in ("ink", "quiet", "accent", "other", "calibrated", "dim", *series):
        for behind in ("page", "surface") if name in ("ink", "quiet", "accent") else ("surface",):
            low, high = sorted((colors[name], colors[behind]))
            assert (high + 0.05) / (low + 0.05) >= (3 if name == "dim" else 4.5), name

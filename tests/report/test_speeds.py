"""Picks by run time against brute force, and what the page says of speed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from sweep_rows import codebook, done, write_results

from qqonnx.report.advice import ADVISED_LOSS
from qqonnx.report.comparisons import RUN_TIMES, comparisons_of
from qqonnx.report.formatting import command, label
from qqonnx.report.outcomes import Outcome, read_outcomes
from qqonnx.report.page import write_report

RUNS = st.lists(
    st.tuples(st.integers(1, 8), st.integers(0, 100), st.none() | st.floats(0.1, 3)),
    min_size=1,
    max_size=10,
)


@given(RUNS)
def test_picks_are_fast_enough_and_the_smallest(runs) -> None:
    outcomes = []
    for number, (nbytes, percent, time) in enumerate([(9, 90, 1.0), *runs], 1):
        numbers = {"file_bytes": nbytes, "top1": percent / 100, "samples": 20}
        if time is not None:
            numbers["latency_ratio"] = time
        text = {"status": "done", "method": "float32" if number == 1 else "auto", "model": "net"}
        outcomes.append(Outcome(number, text, numbers, {"options": {}}, (), ()))
    (comparison,) = comparisons_of(outcomes)
    good = [o for o in outcomes[1:] if o.numbers["top1"] >= 0.9 - ADVISED_LOSS - 1e-9]
    for limit in RUN_TIMES:
        fast = [o.nbytes for o in good if o.numbers.get("latency_ratio", 9) <= limit]
        pick = comparison.smallest(ADVISED_LOSS, run_time=limit)
        assert (None if pick is None else pick.nbytes) == min(fast, default=None)
    pick = comparison.fastest(ADVISED_LOSS)
    times = [o.run_time for o in good if o.run_time is not None]
    assert (None if pick is None else pick.run_time) == min(times, default=None)


def test_the_page_names_the_fast_file(tmp_path: Path) -> None:
    options = '{"min_size": 1024, "compute": "int8-static"}'
    rows = [
        done("float32", 6_000_000, 0.9, latency_ratio=1.0),
        done("ort-qdq-channel", 1_600_000, 0.897, bits=8, latency_ratio=0.5),
        codebook("kmeans", 4, 0.895, latency_ratio=1.01),
        codebook("kmeans", 5, 0.896, latency_ratio=0.48, options=options),
    ]
    results = write_results(tmp_path / "results.sqlite", rows)
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "At most 0.5 × float" in page
    assert "The fastest within 1\N{NO-BREAK SPACE}point is kmeans 5\N{NO-BREAK SPACE}bits" in page
    fast = read_outcomes(results)[-1]
    assert label(fast).startswith("kmeans 5 bits, int8-static")
    assert "--compute int8-static" in (command(fast) or "")


def test_without_times_there_is_no_chart_of_them(tmp_path: Path) -> None:
    rows = [done("float32", 6_000_000, 0.9), codebook("kmeans", 4, 0.895)]
    write_report(write_results(tmp_path / "r.sqlite", rows), tmp_path / "report.html")
    assert "run time" not in (tmp_path / "report.html").read_text("utf-8")

"""Correlations, claims and variants from hand-made results with known answers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

from qqonnx.errors import QqonnxError
from qqonnx.study import claims as claims_module
from qqonnx.study.claims import (
    FAILS,
    HOLDS,
    IN_PART,
    UNKNOWN,
    accuracy_is_highest,
    entropy_is_greatest,
    error_is_a_poor_predictor,
    l1_is_lowest,
    mean_accuracies,
    pwlq_has_the_lowest_l2,
    pwlq_without_its_extra_bit,
    verdict_of,
)
from qqonnx.study.correlation import PREDICTORS, correlations, spearman
from qqonnx.study.distributions import DISTRIBUTIONS
from qqonnx.study.results import Results, Row, read_results, write_results
from qqonnx.study.schemes import ALL, BITS, FITTED
from qqonnx.study.variants import chosen_exponents, gap_closed, tails_by_bits


def naive_rank(values: list[float]) -> list[float]:
    """Return mean ranks by their definition: values below, and half of the equal values."""
    return [
        sum(other < value for other in values) + (sum(o == value for o in values) + 1) / 2
        for value in values
    ]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=25))
@settings(deadline=None)
def test_spearman_is_pearson_of_mean_ranks(pairs: list[tuple[int, int]]) -> None:
    first, second = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    actual = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert actual is None
        return
    a, b = (np.array(naive_rank(values)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    assert actual == pytest.approx(float(a @ b / math.sqrt(a @ a * (b @ b))), abs=1e-12)


def layer_row(weight: str, bits: int, scheme: str, accuracy: float, **predictors: float) -> Row:
    row = dict.fromkeys(PREDICTORS, 0.0) | predictors
    return {
        "model": "net",
        "weight": weight,
        "bits": bits,
        "scheme": scheme,
        "top1": accuracy,
        **row,
    }


def test_a_perfect_and_an_inverted_predictor_are_told_apart() -> None:
    rows = []
    for weight, bits, (rank, scheme) in itertools.product("ab", (2, 3), enumerate(("x", "y", "z"))):
        # Accuracy falls with error. Weight b is worse throughout. KL predicts it; L2 ranks methods
        # in reverse order.
        accuracy = 1 - 0.1 * rank - 0.02 * (4 - bits) - (0.3 if weight == "b" else 0)
        rows.append(
            layer_row(
                weight, bits, scheme, accuracy, kl=1 - accuracy, l2=5.0 - rank, sqnr=accuracy * 10
            )
        )
    actual = {entry.predictor: entry for entry in correlations(rows)}
    assert actual["kl"].pooled == pytest.approx(1)
    assert actual["kl"].within_weight == pytest.approx(1)
    assert actual["kl"].within_choice == pytest.approx(1)
    # A higher SQNR is better, so its sign is reversed.
    assert actual["sqnr"].pooled == pytest.approx(1)
    assert actual["l2"].within_choice == pytest.approx(-1)
    assert actual["l2"].choices == 4
    assert math.isnan(actual["l1"].pooled)


def results(**parts: list[Row]) -> Results:
    empty: dict[str, list[Row]] = {
        name: [] for name in ("distributions", "networks", "layers", "tails", "exponents")
    }
    return Results(extent="test", setting={}, **(empty | parts))


def distribution_rows(
    l1: dict[str, float], l2: dict[str, float], entropy: dict[str, float]
) -> list[Row]:
    """Return rows in which a scheme's loss is its factor times 2^-bits (4^-bits)."""
    rows = []
    for distribution, scheme in itertools.product(DISTRIBUTIONS, FITTED):
        for bits in BITS:
            if scheme.levels_at(bits) is None:
                continue
            rows.append({
                "distribution": distribution.key,
                "scheme": scheme.key,
                "bits": bits,
                "l1": l1.get(scheme.key, 3.0) * 2.0**-bits,
                "l2": l2.get(scheme.key, 3.0) * 4.0**-bits,
                "entropy": entropy.get(scheme.key, 0.9) * bits,
            })  # fmt: skip
    return rows


def test_verdicts_of_always() -> None:
    assert verdict_of(0, 0) == UNKNOWN
    assert verdict_of(8, 8) == HOLDS
    assert verdict_of(4, 8) == verdict_of(7, 8) == IN_PART
    assert verdict_of(3, 8) == verdict_of(0, 8) == FAILS


def test_entropy_counts_ties_as_greatest_but_nothing_below() -> None:
    level = results(distributions=distribution_rows({}, {}, {"qq": 0.9}))
    assert entropy_is_greatest(level).verdict == HOLDS
    assert entropy_is_greatest(level).number == "40 of 40 cases"
    beaten = results(distributions=distribution_rows({}, {}, {"qq": 0.95, "uniq": 0.96}))
    assert entropy_is_greatest(beaten).verdict == FAILS
    # Published PWLQ has more levels, and medians share QQ's bins, so neither is a rival.
    richer = {"qq": 0.95, "pwlq-paper": 1.5, "qq-median": 0.96}
    assert (
        entropy_is_greatest(results(distributions=distribution_rows({}, {}, richer))).verdict
        == HOLDS
    )


def test_l1_verdicts() -> None:
    best = results(distributions=distribution_rows({"qq": 1.0}, {}, {}))
    assert l1_is_lowest(best).verdict == HOLDS
    # 8 bit-widths of UQ and of PWLQ, 6 of published PWLQ, which exists from 2 to 7.
    assert l1_is_lowest(best).number == "lower in 22 of 22 comparisons on normal values"
    worst = results(distributions=distribution_rows({"qq": 9.0}, {}, {}))
    assert l1_is_lowest(worst).verdict == FAILS
    one = results(distributions=distribution_rows({"qq": 1.0, "pwlq-paper": 0.5}, {}, {}))
    assert l1_is_lowest(one).verdict == IN_PART
    assert "16 of 22" in l1_is_lowest(one).number


def test_the_extra_bit_of_published_pwlq_decides_its_l2() -> None:
    # Half the loss of the others at equal named bits, twice the loss at equal stored bits.
    rows = distribution_rows({}, {"pwlq-paper": 1.5, "pwlq": 9.0}, {})
    actual = pwlq_has_the_lowest_l2(results(distributions=rows))
    # Named 5, 6, 7 against two rivals each; stored 5 to 8 against two.
    assert "the lower error in 6 of 6 if counted as b bits" in actual.detail
    assert actual.number == "lower in 0 of 8 comparisons with the extra bit counted"
    assert actual.verdict == FAILS


def network_rows(accuracy: dict[tuple[str, int], float], model: str = "net") -> list[Row]:
    rows: list[Row] = [{"model": model, "label": "Net", "scheme": None, "bits": 32, "top1": 1.0}]
    rows += [
        {"model": model, "label": "Net", "scheme": s, "bits": b, "top1": a, "entropy": b}
        for (s, b), a in accuracy.items()
    ]
    return rows


def test_the_extra_bit_of_published_pwlq_decides_its_accuracy() -> None:
    # Each bit is worth 0.1; PWLQ as published is 0.05 ahead of its name, so 0.05 behind its bits.
    accuracy = {(s, b): 0.1 * b for s in ("uq", "qq") for b in range(1, 9)}
    accuracy |= {("pwlq-paper", b): 0.1 * b + 0.05 for b in range(2, 8)}
    actual = pwlq_without_its_extra_bit(results(networks=network_rows(accuracy)))
    assert actual.verdict == FAILS
    assert actual.number == "-5.0 points against QQ, -5.0 against UQ"
    assert "+5.0 points against QQ and +5.0 against UQ at b bits as named" in actual.detail
    assert pwlq_without_its_extra_bit(results()).verdict == UNKNOWN


def test_accuracy_counts_ties_and_means_only_complete_cells() -> None:
    accuracy = {("uq", 2): 0.2, ("pwlq", 2): 0.3, ("qq", 2): 0.3, ("kmeans", 2): 0.5}
    accuracy |= {("uq", 3): 0.9, ("pwlq", 3): 0.3, ("qq", 3): 0.3}
    actual = results(networks=network_rows(accuracy))
    assert accuracy_is_highest(actual).verdict == IN_PART
    assert accuracy_is_highest(actual).number == "best or equal in 1 of 2 cases"
    assert mean_accuracies(actual, ["qq", "kmeans"]) == {"qq": 0.3, "kmeans": 0.5}
    assert mean_accuracies(actual, ["qq", "nf"]) == {}


@pytest.mark.parametrize(("quality", "verdict"), [(0.0, HOLDS), (1.0, FAILS)])
def test_predictors_verdict(quality: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for weight, bits, scheme in itertools.product("abcdef", (1, 2, 3, 4), ("x", "y", "z")):
        accuracy = float(rng.random())
        noise = quality * (1 - accuracy) + (1 - quality) * float(rng.random())
        rows.append(
            layer_row(weight, bits, scheme, accuracy, l1=noise, l2=noise**2, kl=1 - accuracy)
        )
    assert error_is_a_poor_predictor(results(layers=rows)).verdict == verdict
    assert error_is_a_poor_predictor(results()).verdict == UNKNOWN


def test_gap_closed() -> None:
    assert gap_closed(8.0, 8.0, 1.0) == 0
    assert gap_closed(8.0, 1.0, 1.0) == 1
    assert gap_closed(8.0, 2.0, 1.0) == pytest.approx(2 / 3)
    assert gap_closed(8.0, 16.0, 1.0) < 0


def test_exponents_are_chosen_without_looking_at_held_out_images() -> None:
    rows = [
        {
            "model": "net",
            "bits": 3,
            "alpha": a,
            "noise": n,
            "calibration_kl": c,
            "kl": 0.0,
            "top1": t,
        }
        for a, n, c, t in ((0.0, 3.0, 2.0, 0.99), (0.5, 1.0, 3.0, 0.2), (1.0, 2.0, 1.0, 0.3))
    ]
    [chosen] = chosen_exponents(results(exponents=rows))
    assert chosen["by_error"]["alpha"] == 0.5
    assert chosen["by_calibration"]["alpha"] == 1.0
    assert chosen["plain"]["top1"] == 0.3


def test_tails_are_means_over_networks() -> None:
    rows = [
        {"model": m, "method": "qq", "bits": 3, "squared": s} for m, s in (("a", 0.5), ("b", 0.9))
    ]
    assert tails_by_bits(results(tails=rows), "qq") == {3: {"squared": pytest.approx(0.7)}}
    assert tails_by_bits(results(tails=rows), "kmeans") == {}


def test_results_are_read_as_written(tmp_path: Path) -> None:
    written = results(networks=network_rows({("qq", 2): 0.123456789}))
    write_results(written, tmp_path / "study.json")
    assert read_results(tmp_path / "study.json") == written
    (tmp_path / "bad.json").write_text("{}")
    for name in ("bad.json", "none.json"):
        with pytest.raises(QqonnxError, match=name):
            read_results(tmp_path / name)


def test_schemes_are_told_apart() -> None:
    assert len({scheme.key for scheme in ALL}) == len(ALL)
    assert len({(s.color, s.marker) for s in ALL}) == len(ALL)
    assert {f.name for f in dataclasses.fields(claims_module.Claim)} >= {"verdict", "number"}

"""Tables whose rows are read by index: frequent rows count for more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qqonnx import Calibration, Options, compress, restore
from qqonnx.calibration.frequencies import relative_frequencies
from qqonnx.calibration.gptq import weighted_kmeans

ROWS = 200


@given(arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 20)))
def test_frequencies_average_to_one_and_follow_the_counts(counts: np.ndarray) -> None:
    found = relative_frequencies(counts)
    assert found.mean() == pytest.approx(1, rel=1e-5)
    assert (found > 0).all()
    read = counts > 0
    if read.any():
        assert (np.diff(found[read][np.argsort(counts[read], kind="stable")]) >= 0).all()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_important_rows_get_the_levels(seed: int, scaled: bool) -> None:
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((1, 40, 24)).astype(np.float32)
    matrix[:, :4] = np.sign(matrix[:, :4]) * np.float32(3)
    importance = np.ones((1, 40), np.float32)
    heavy = importance.copy()
    heavy[:, :4] = 1e4

    def error(weights: np.ndarray) -> float:
        found = weighted_kmeans(matrix, weights, 4, scaled=scaled)
        return float(np.square(matrix - found.decoded)[:, :4].sum())

    assert error(heavy) <= error(importance) + 1e-6


@pytest.mark.parametrize("given_as_input", [True, False])
def test_frequent_rows_of_a_table_keep_more(
    build: Build, tmp_path: Path, given_as_input: bool
) -> None:
    """Also where the model computes the indices; what is padded does not count."""
    gather = (
        "e = Gather(table, ids)" if given_as_input else "k = Add(ids, one) e = Gather(table, k)"
    )
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    m (int64[b,t] ids, int64[b,t] attention_mask) => (float[b,t,32] y) {{
      {gather}  f = Cast<to = 1>(attention_mask)  g = Unsqueeze(f, last)  y = Mul(e, g) }}"""
    table = normal(ROWS, 32)
    # The frequent rows have a distribution of their own.
    table[:10] = np.sign(table[:10]) * np.float32(0.3)
    extra = {"last": np.array([-1])} | ({} if given_as_input else {"one": np.array(1)})
    model = build(text, {"table": table, **extra})
    random = np.random.default_rng(0)
    shift = 0 if given_as_input else 1

    def feeds(rare: bool) -> list[dict[str, np.ndarray]]:
        found = []
        for _ in range(40):
            ids = random.integers(0, 10, (2, 8))
            mask = np.ones((2, 8), np.int64)
            mask[:, 4:] = 0
            ids[:, 4:] = random.integers(100, 110, (2, 4))
            if rare:
                ids, mask = random.integers(10, ROWS, (2, 8)), np.ones((2, 8), np.int64)
            found.append({"ids": ids - shift, "attention_mask": mask})
        return found

    def errors(runs: list[dict[str, np.ndarray]]) -> tuple[float, float]:
        out, back = tmp_path / "o.onnx", tmp_path / "back.onnx"
        compress(model, out, Options(bits=2, min_size=64), calibration=Calibration(runs))
        restore(out, back)
        (found,) = (i for i in onnx.load(back).graph.initializer if i.name == "table")
        squared = np.square(onnx.numpy_helper.to_array(found) - table)
        ort.InferenceSession(out)
        return float(squared[:10].mean()), float(squared[10:].mean())

    frequent, rare = errors(feeds(rare=False)), errors(feeds(rare=True))
    assert frequent[0] < rare[0]
    assert rare[1] < frequent[1]

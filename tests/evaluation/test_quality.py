"""Quality of outputs of any form: against formulas, and what each measure must not miss."""

from __future__ import annotations

import numpy as np
import pytest
from building import normal
from hypothesis import given
from hypothesis import strategies as st

from qqonnx.evaluation.divergence import channel_errors, output_divergence
from qqonnx.evaluation.quality import output_quality


def detection(samples: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes in pixels [n, 4, 200] and scores in 0..1 [n, 20, 200]."""
    boxes = 100 * normal(samples, 4, 200)
    scores = 1 / (1 + np.exp(-normal(samples, 20, 200, seed=1)))
    return boxes, scores.astype(np.float32)


def test_channels_count_relative_to_their_own_variation() -> None:
    boxes, scores = detection()
    lost = np.zeros_like(scores)
    joined = np.concatenate([boxes, scores], axis=1)
    errors = channel_errors(joined, np.concatenate([boxes, lost], axis=1))
    assert errors.shape == (24,)
    assert errors[:4] == pytest.approx(0)
    assert (errors[4:] > 1).all()
    # Relative to the variance of the whole output, nothing would have been lost.
    assert np.square(scores).mean() / joined.var() < 1e-3


def test_an_output_in_one_part_or_two_costs_the_same() -> None:
    boxes, scores = detection()
    worse = scores + 0.05 * normal(*scores.shape, seed=2)
    moved = boxes + 5 * normal(*boxes.shape, seed=3)
    joined = output_divergence(
        np.concatenate([boxes, scores], axis=1), np.concatenate([moved, worse], axis=1)
    )
    apart = [output_divergence(boxes, moved), output_divergence(scores, worse)]
    # One output is the mean over its channels, so parts count by their channels.
    assert joined == pytest.approx((4 * apart[0] + 20 * apart[1]) / 24, rel=0.05)


@given(st.sampled_from([(3, 50), (2, 3, 40), (2, 8, 5, 5), (64,), ()]), st.floats(0.01, 100))
def test_errors_do_not_depend_on_the_unit(shape: tuple[int, ...], unit: float) -> None:
    reference = np.asarray(normal(*shape)).astype(np.float64) + 1
    output = reference + 0.1 * np.asarray(normal(*shape, seed=1))
    np.testing.assert_allclose(
        channel_errors(unit * reference, unit * output), channel_errors(reference, output)
    )
    assert (channel_errors(reference, reference) == 0).all()


def test_one_channel_is_the_error_over_the_variance() -> None:
    reference = normal(500)
    output = reference + np.float32(0.2)
    assert channel_errors(reference, output) == pytest.approx([0.04 / reference.var()], rel=1e-3)


@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_constant_channels_count_relative_to_their_size(constant: float) -> None:
    reference = np.concatenate([np.full((4, 1, 50), constant), normal(4, 3, 50)], axis=1)
    errors = channel_errors(reference, reference + 0.1)
    assert np.isfinite(errors).all()
    assert errors[0] < 1


def test_quality_of_classes() -> None:
    logits = normal(40, 10)
    other = logits.copy()
    other[:4] = -other[:4]
    quality = output_quality("y", [logits[:30], logits[30:]], [other[:30], other[30:]])
    assert (quality.samples, quality.agreement) == (40, 0.9)
    assert quality.kl is not None
    assert quality.kl > 0
    assert quality.is_poor
    assert quality.max_difference == pytest.approx(2 * np.abs(logits[:4]).max())
    same = output_quality("y", [logits], [logits])
    assert (same.agreement, same.relative_error, same.sqnr) == (1, 0, float("inf"))
    assert same.cosine == pytest.approx(1)
    assert not same.is_poor


def test_a_lost_part_of_an_output_is_poor() -> None:
    boxes, scores = detection()
    joined = np.concatenate([boxes, scores], axis=1)
    lost = np.concatenate([boxes, np.full_like(scores, 0.5)], axis=1)
    quality = output_quality("output0", [joined], [lost])
    assert quality.cosine > 0.999
    assert quality.is_poor
    assert quality.worst_channel == pytest.approx(1, abs=0.1)

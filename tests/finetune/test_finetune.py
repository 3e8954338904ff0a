"""Fine-tuning brings the outputs of a quantized model closer to those of the float model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import normal, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.errors import QqonnxError
from qqonnx.finetune.finetune import FinetuneResult, finetune
from qqonnx.finetune.tunable import TunableWeight

pytestmark = pytest.mark.torch
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")

TEXT = """<ir_version: 8, opset_import: ["": 17]>
m (float[BATCH,3,8,8] x) => (float y) {{
  a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)  c = Relu(a)
  d = Conv<group = 8, pads = [1, 1, 1, 1]>(c, w2, b2)  e = Relu(d)
  f = GlobalAveragePool(e)  g = Flatten(f)  z = Gemm<transB = 1>(g, w3, b3)
  {end} }}"""

ENDS = {
    "logits": "y = Identity(z)",
    "probabilities": "y = Softmax(z)",
    "values": "y = Unsqueeze(z, one)",
}
SHAPES = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (5, 8)}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread; for networks this small, more threads only wait for each other."""
    if find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def float_model(batch: str = "N", end: str = "logits", seed: int = 0) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT.format(end=ENDS[end]).replace("BATCH", batch))
    arrays = {name: normal(*shape, seed=seed + 1) for name, shape in SHAPES.items()}
    arrays |= {f"b{n}": normal(length, seed=seed + 2) for n, length in ((1, 8), (2, 8), (3, 5))}
    for name, array in arrays.items():
        model.graph.initializer.append(tensor_of(array, name))
    model.graph.initializer.append(tensor_of(np.array([1]), "one"))
    return model


def values_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}


def quantized(model: onnx.ModelProto, count: int = 4, scaled: bool = True) -> list[TunableWeight]:
    """Quantize the weights to the nearest of `count` evenly spaced levels."""
    tunables = []
    for name in SHAPES:
        values = values_of(model)[name]
        scales = None
        if scaled:
            others = tuple(range(1, values.ndim))
            scales = np.sqrt((values**2).mean(others)).astype(np.float16).astype(np.float32)
            values = values / scales.reshape(-1, *[1] * len(others))
        levels = np.linspace(values.min(), values.max(), count, dtype=np.float32)
        indices = np.abs(values[..., None] - levels).argmin(-1).astype(np.uint8)
        axis = 0 if scaled else None
        tunables.append(TunableWeight(name, values.shape, indices, levels, scales, axis))
    return tunables


def decoded(weight: TunableWeight) -> np.ndarray:
    values = weight.levels[weight.indices]
    if weight.scales is not None:
        values = values * weight.scales.reshape(-1, *[1] * (values.ndim - 1))
    return values


def run(model: onnx.ModelProto, images: np.ndarray, constants: dict | None = None) -> np.ndarray:
    """Run a model in ONNX Runtime with some initializers replaced."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for entry in other.graph.initializer:
        if constants and entry.name in constants:
            entry.CopyFrom(tensor_of(constants[entry.name], entry.name))
    return ort.InferenceSession(other.SerializeToString()).run(None, {"x": images})[0]


def divergence(exact: np.ndarray, result: np.ndarray) -> float:
    """Mean KL divergence of the softmax of logits."""
    log_p, log_q = (z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (exact, result))
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def batches(count: int = 48, size: int = 10, seed: int = 5) -> list[dict[str, np.ndarray]]:
    images = normal(count, 3, 8, 8, seed=seed)
    return [{"x": images[start : start + size]} for start in range(0, count, size)]


def constants_of(result: FinetuneResult) -> dict[str, np.ndarray]:
    return {weight.name: decoded(weight) for weight in result.weights} | result.biases


def finetuned(model: onnx.ModelProto, weights: list[TunableWeight], **options) -> FinetuneResult:
    chosen = {"epochs": 6, "learning_rate": 5e-3, "batch_size": 8, **options}
    inputs = chosen.pop("inputs", batches())
    return finetune(model, weights, ["b1", "b2", "b3"], inputs, **chosen)


@needs_torch
@pytest.mark.parametrize("scaled", [True, False])
def test_outputs_come_nearer(scaled: bool) -> None:
    model = float_model()
    weights = quantized(model, scaled=scaled)
    result = finetuned(model, weights)
    assert result.loss_after < result.loss_before
    # New images, in ONNX Runtime.
    images = normal(200, 3, 8, 8, seed=77)
    exact = run(model, images)
    before = divergence(exact, run(model, images, {w.name: decoded(w) for w in weights}))
    after = divergence(exact, run(model, images, constants_of(result)))
    assert after < 0.7 * before


@needs_torch
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 99),
    count=st.integers(2, 5),
    learning_rate=st.sampled_from([1e-3, 1e-2, 0.3, 3.0]),
    scaled=st.booleans(),
    end=st.sampled_from(sorted(ENDS)),
)
def test_never_worse_and_only_levels_scales_and_biases_change(
    seed: int, count: int, learning_rate: float, scaled: bool, end: str
) -> None:
    model = float_model(seed=seed, end=end)
    weights = quantized(model, count, scaled)
    result = finetuned(model, weights, epochs=1, learning_rate=learning_rate, seed=seed)
    assert 0 <= result.loss_after <= result.loss_before
    if result.loss_after == result.loss_before:
        assert result.weights == weights
        assert all(np.array_equal(result.biases[b], values_of(model)[b]) for b in result.biases)
    for old, new in zip(weights, result.weights, strict=True):
        assert (new.name, new.shape, new.channel_axis) == (old.name, old.shape, old.channel_axis)
        assert np.array_equal(new.indices, old.indices)
        assert new.levels.dtype == np.float32
        assert np.all(np.diff(new.levels) > 0)
        assert (new.scales is None) == (old.scales is None)
        if new.scales is not None:
            assert new.scales.dtype == np.float32
            assert np.array_equal(new.scales, new.scales.astype(np.float16))
    if result.loss_after < result.loss_before:
        for bias in result.biases.values():
            assert bias.dtype == np.float32
            assert np.array_equal(bias, bias.astype(np.float16))


@needs_torch
@pytest.mark.parametrize("end", ENDS)
def test_losses_are_what_onnx_runtime_computes(end: str) -> None:
    model = float_model(end=end)
    weights = quantized(model)
    # One image is repeated, so held-out and training images are the same.
    image = normal(1, 3, 8, 8, seed=3)
    inputs = [{"x": np.repeat(image, 12, axis=0)}]
    result = finetuned(model, weights, inputs=inputs)
    exact = run(model, image)
    for loss, constants in (
        (result.loss_before, {weight.name: decoded(weight) for weight in weights}),
        (result.loss_after, constants_of(result)),
    ):
        output = run(model, image, constants)
        if end == "values":
            right = ((exact - output) ** 2).mean() / exact.var()
        elif end == "probabilities":
            right = divergence(np.log(exact), np.log(output))
        else:
            right = divergence(exact, output)
        assert loss == pytest.approx(right, rel=1e-3, abs=1e-6)


@needs_torch
def test_same_seed_same_result() -> None:
    model = float_model()
    first, again, other = (
        finetuned(model, quantized(model), seed=seed, epochs=2) for seed in (1, 1, 2)
    )
    for mine, same, different in zip(first.weights, again.weights, other.weights, strict=True):
        assert np.array_equal(mine.levels, same.levels)
        assert np.array_equal(mine.scales, same.scales)
        assert not np.array_equal(mine.levels, different.levels)
    assert (first.loss_before, first.loss_after) == (again.loss_before, again.loss_after)
    assert all(np.array_equal(first.biases[name], again.biases[name]) for name in first.biases)


@needs_torch
@pytest.mark.parametrize("scaled", [True, False])
def test_gradients_are_those_of_indexing(scaled: bool) -> None:
    import torch

    from qqonnx.finetune.loop import student_of

    (weight, *_) = quantized(float_model(), scaled=scaled)
    (tuned,) = student_of([weight], {}).weights
    slope = torch.from_numpy(normal(*weight.shape, seed=8))
    tuned.backward(slope)
    offsets, logs = torch.zeros(4).requires_grad_(), torch.zeros(8).requires_grad_()
    values = (tuned.levels + tuned.unit * offsets)[tuned.indices.long()]
    if scaled:
        values = values * (torch.from_numpy(weight.scales) * logs.exp()).reshape(8, 1, 1, 1)
    (slope * values).sum().backward()
    torch.testing.assert_close(tuned.offsets.grad, offsets.grad)
    if scaled:
        torch.testing.assert_close(tuned.log_factors.grad.reshape(-1), logs.grad)
    else:
        assert tuned.log_factors.grad is None


@needs_torch
def test_a_model_of_fixed_batch_takes_its_runs_one_by_one() -> None:
    model = float_model(batch="1")
    inputs = [{"x": image[None]} for batch in batches() for image in batch["x"]]
    seen = []
    fixed = finetuned(
        model, quantized(model), inputs=inputs, epochs=2, progress=lambda n, of: seen.append(n)
    )
    assert set(seen) == {8, 44 % 8}
    assert fixed.loss_after < fixed.loss_before
    # The steps have the same samples as those of a model with a free batch size.
    free = finetuned(float_model(), quantized(model), epochs=2)
    assert fixed.loss_before == pytest.approx(free.loss_before, rel=1e-3)
    assert fixed.loss_after == pytest.approx(free.loss_after, rel=1e-2)


@needs_torch
def test_large_outputs_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from qqonnx.finetune import losses

    model = float_model()
    kept = finetuned(model, quantized(model), epochs=2)
    monkeypatch.setattr(losses, "CACHED_BYTES", 100)
    again = finetuned(model, quantized(model), epochs=2)
    assert again.loss_before == pytest.approx(kept.loss_before, rel=1e-4)
    assert again.loss_after == pytest.approx(kept.loss_after, rel=1e-2)


@needs_torch
def test_progress_adds_up() -> None:
    model = float_model()
    seen: list[tuple[int, int]] = []
    finetuned(model, quantized(model), epochs=2, progress=lambda *step: seen.append(step))
    assert {total for _, total in seen} == {2 * 44}
    assert sum(done for done, _ in seen) == 2 * 44


@needs_torch
def test_weights_that_no_output_needs_stay() -> None:
    model = float_model()
    model.graph.initializer.append(tensor_of(normal(4, 4), "unused"))
    levels = np.array([-1, 1], np.float32)
    unused = TunableWeight("unused", (4, 4), np.zeros((4, 4), np.uint8), levels, None, None)
    result = finetuned(model, [*quantized(model), unused])
    assert result.loss_after < result.loss_before
    assert np.array_equal(result.weights[-1].levels, levels)


@needs_torch
def test_what_does_not_fit_is_named() -> None:
    model = float_model()
    (first, *others) = quantized(model)
    for change, named in (({"name": "gone"}, "'gone'"), ({"shape": (8, 27)}, "'w1'")):
        odd = TunableWeight(**{**vars(first), **change})
        with pytest.raises(QqonnxError, match=named):
            finetune(model, [odd, *others], [], batches())
    with pytest.raises(QqonnxError, match="'b9'"):
        finetune(model, [first, *others], ["b9"], batches())
    with pytest.raises(QqonnxError, match="no inputs"):
        finetune(model, [first, *others], [], [])


def test_without_pytorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    model = float_model()
    with pytest.raises(QqonnxError, match=r'pip install "qqonnx\[finetune\]"'):
        finetune(model, quantized(model), [], batches())

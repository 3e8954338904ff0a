"""The default method: never worse than the plain file of its size, whether a model runs or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import pytest
from building import Build, normal

from qqonnx import Options, compress
from qqonnx.calibration.estimate import Estimate
from qqonnx.calibration.inputs import calibration_inputs
from qqonnx.cli import convert_model
from qqonnx.compression import calibrated
from qqonnx.compression.judge import lost_output
from qqonnx.compression.quality import measure_qualities
from qqonnx.compression.results import CompressReport
from qqonnx.config import Calibration, is_automatic
from qqonnx.encoding.stack import FEWEST
from qqonnx.errors import OptionError
from qqonnx.model.load import load

if TYPE_CHECKING:
    from pathlib import Path

NET = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[n,3,16,16] x) => (float[n,10] y)
{
    a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)
    c = Conv<group=32, pads=[1,1,1,1]>(b, w2)  d = Relu(c)
    e = Conv(d, w3)  f = Relu(e)
    g = GlobalAveragePool(f)  h = Flatten(g)  y = Gemm<transB=1>(h, w4)
}
"""
SMALL = {"min_size": 64}


@pytest.fixture
def net(build: Build) -> Path:
    spread = np.exp(normal(64, seed=9)).astype(np.float32)
    return build(
        NET,
        {
            "w1": normal(32, 3, 3, 3, seed=1) * spread[:32, None, None, None],
            "w2": normal(32, 1, 3, 3, seed=2) * spread[32:, None, None, None] / 3,
            "w3": normal(64, 32, 1, 1, seed=3) * spread[:, None, None, None] / 6,
            "w4": normal(10, 64, seed=4) / 8,
        },
    )


def relative_error(original: Path, compressed: Path, x: np.ndarray) -> float:
    exact, other = (
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for path in (original, compressed)
    )
    return float(np.square(exact - other).mean() / exact.var())


@pytest.mark.parametrize("bits", [3, 4])
def test_the_default_is_better_than_the_plain_file_of_its_size(
    net: Path, tmp_path: Path, bits: int
) -> None:
    automatic = compress(net, tmp_path / "a.onnx", Options(bits=bits, **SMALL))
    options = Options(bits=bits, granularity="scale", **SMALL)
    plain = compress(net, tmp_path / "p.onnx", options)
    assert automatic.calibration == "synthetic inputs (data-free)"
    assert automatic.doubt is None
    # A storage layout that no other weight has takes some 500 bytes of nodes.
    assert automatic.bytes_after <= plain.bytes_after + 1500
    x = np.maximum(normal(64, 3, 16, 16, seed=7) + normal(64, 3, 1, 1, seed=8), 0)
    ours = relative_error(net, tmp_path / "a.onnx", x)
    assert ours < 0.8 * relative_error(net, tmp_path / "p.onnx", x)


def test_eight_bits_by_default_lose_next_to_nothing(net: Path, tmp_path: Path) -> None:
    compress(net, tmp_path / "a.onnx", Options(**SMALL))
    x = normal(32, 3, 16, 16, seed=7)
    assert relative_error(net, tmp_path / "a.onnx", x) < 1e-3


def test_the_file_does_not_depend_on_threads(net: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        compress(net, tmp_path / f"{threads}.onnx", Options(bits=4, **SMALL), threads=threads)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "3.onnx").read_bytes()


def test_fixed_bits_are_kept(net: Path, tmp_path: Path) -> None:
    options = Options(bits=4, bits_for={"w2": 8, "w3": 2}, **SMALL)
    report = compress(net, tmp_path / "a.onnx", options)
    levels = {weight.name: weight.levels for weight in report.weights}
    assert levels["w3"] <= 4 < 16 < levels["w2"]


def test_many_small_weights_keep_equal_levels(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, arrays = "v0 = Identity(x)", {}
    for number in range(FEWEST):
        text += f"  a{number} = MatMul(v{number}, w{number})  v{number + 1} = Tanh(a{number})"
        arrays[f"w{number}"] = normal(12, 12, seed=number) / 3
    text += f"  y = MatMul(v{FEWEST}, last)"
    graph = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[n,12] x) => (float[n,9] y) {{ {text} }}"""
    model = build(graph, arrays | {"last": normal(12, 9)})
    for very_many, method in ((FEWEST + 1, "kmeans+feedback"), (FEWEST, "kmeans")):
        monkeypatch.setattr(calibrated, "_VERY_MANY", very_many)
        report = compress(model, tmp_path / "o.onnx", Options(bits=3, **SMALL))
        crowd = [weight for weight in report.weights if weight.name != "last"]
        assert {(weight.levels, weight.granularity) for weight in crowd} == {(8, "scale")}
        assert {weight.method for weight in crowd} == {method}


UNRUNNABLE = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[a,b] x) => (float[c,48] y)
{ shape = Constant<value_ints=[7, 13, 32]>()  r = Reshape(x, shape)  y0 = MatMul(r, w1)
  y1 = ReduceMean<axes=[1], keepdims=0>(y0)  y = MatMul(y1, w2) }
"""


def test_a_model_that_does_not_run_gets_levels_from_its_weights(
    build: Build, tmp_path: Path
) -> None:
    model = build(UNRUNNABLE, {"w1": normal(32, 64, seed=1), "w2": normal(64, 48, seed=2)})
    report = compress(model, tmp_path / "o.onnx", Options(bits=4, **SMALL))
    assert report.doubt is not None
    assert report.doubt.startswith("levels were chosen from the weights alone: ")
    assert {weight.method for weight in report.weights} == {"kmeans"}
    with pytest.raises(Exception, match="does not run"):
        compress(
            model,
            tmp_path / "n.onnx",
            Options(bits=4, **SMALL),
            calibration=Calibration([{"x": normal(3, 5)}]),
        )
    assert not (tmp_path / "n.onnx").exists()


def plain_report(net: Path, path: Path, bits: int) -> CompressReport:
    return compress(net, path, Options(bits=bits, granularity="scale", **SMALL))


def test_the_judge_finds_what_was_lost(net: Path, tmp_path: Path) -> None:
    feeds = [{"x": normal(8, 3, 16, 16, seed=seed)} for seed in range(4)]
    for bits in (2, 6):
        plain_report(net, tmp_path / f"{bits}.onnx", bits)
    files = [tmp_path / "2.onnx", tmp_path / "6.onnx"]
    two, six = measure_qualities(net, files, feeds, "given inputs", optimized=True)
    assert lost_output(two, six, {}) == "y"
    assert lost_output(six, two, {}) is None
    assert lost_output(six, six, {}) is None
    assert lost_output(two, six, {"y": 0.0}) is None


def test_a_calibrated_file_that_lost_gives_way_to_the_plain_one(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qqonnx.calibration import calibrate

    def spoiled(*args: object, **kwargs: object) -> object:
        return replaced(calibrate_quantize(*args, **kwargs))

    def replaced(quantized: object) -> object:
        from dataclasses import replace

        indices = quantized.indices[:, ::-1]  # type: ignore[attr-defined]
        return replace(quantized, indices=np.ascontiguousarray(indices))  # type: ignore[type-var]

    calibrate_quantize = calibrate.quantize_matrix
    monkeypatch.setattr(calibrate, "quantize_matrix", spoiled)
    report = compress(net, tmp_path / "o.onnx", Options(bits=4, **SMALL))
    assert report.doubt == "k-means with scales: calibration lost more of the output 'y'"
    assert {weight.method for weight in report.weights} == {"kmeans"}
    x = normal(32, 3, 16, 16, seed=7)
    assert relative_error(net, tmp_path / "o.onnx", x) < 0.2


def test_nothing_is_fitted_to_what_is_held_out(net: Path, tmp_path: Path) -> None:
    x = normal(80, 3, 16, 16, seed=5)
    np.save(tmp_path / "x.npy", x)
    inputs = calibration_inputs(load(net), tmp_path / "x.npy", 256)
    held_out = np.concatenate([feed["x"] for feed in inputs.held_out])
    assert 8 <= len(held_out) <= 32
    fitted = np.concatenate([feed["x"] for feed in inputs.feeds])
    assert len(held_out) + len(fitted) == 80
    assert not (held_out[:, None] == fitted[None]).all(axis=(2, 3, 4)).any()


def test_a_time_limit_takes_samples_away(net: Path, tmp_path: Path) -> None:
    made = {}
    for limit in (None, 1e6, 1e-6):
        report = compress(
            net,
            tmp_path / "o.onnx",
            Options(bits=4, **SMALL),
            calibration=Calibration(time_limit=limit),
        )
        made[limit] = report.doubt, (tmp_path / "o.onnx").read_bytes()
        assert report.quality.outputs
    assert made[None] == made[1e6]
    assert made[None][0] is None
    assert "calibration takes over 1e-06 s" in str(made[1e-6][0])


def test_estimates_grow_with_runs() -> None:
    expected = Estimate(fixed=10, per_run=2)
    assert expected.seconds(5) == 20
    assert [expected.runs_within(limit) for limit in (5, 10, 19, 20)] == [0, 0, 4, 5]


def test_what_is_automatic() -> None:
    assert is_automatic(Options())
    assert is_automatic(Options(bits=4))
    assert is_automatic(Options(method="auto"))
    assert not is_automatic(Options(method="kmeans"))
    assert not is_automatic(Options(granularity="scale"))
    assert not is_automatic(Options(operators="matmulnbits"))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (Options(method="auto", granularity="scale"), "granularity"),
        (Options(method="auto", operators="matmulnbits"), "operators"),
    ],
)
def test_options_that_auto_ignores(net: Path, tmp_path: Path, options: Options, field: str) -> None:
    with pytest.raises(OptionError, match=f"^{field}: "):
        compress(net, tmp_path / "o.onnx", options)


def test_fast_is_kmeans_with_scales(
    net: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(name: str, *options: str) -> object:
        words = ["convert-model", str(net), "-o", str(tmp_path / name), "--fast", *options]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as stop:
            convert_model()
        return stop.value.code

    assert not run("f.onnx", "--bits", "4", "--quiet")
    options = Options(method="kmeans", bits=4, granularity="scale")
    compress(net, tmp_path / "p.onnx", options)
    assert (tmp_path / "f.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()
    for others in (("--target-bits", "4"), ("--method", "uq")):
        assert run("n.onnx", *others) == 2
        assert "--fast" in capsys.readouterr().err
        assert not (tmp_path / "n.onnx").exists()

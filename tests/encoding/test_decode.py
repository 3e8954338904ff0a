"""Compression of small models: the selection of weights, and exact decoding."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from building import Build, normal, tensor_of
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qqonnx import Calibration, Options, QqonnxError, compress, inspect, restore
from qqonnx.encoding.encode import stored_weight
from qqonnx.encoding.locate import DECODE_OPERATORS, decode_graphs, decoder
from qqonnx.encoding.record import read_record
from qqonnx.encoding.rewrite import rewrite
from qqonnx.encoding.stored import digest
from qqonnx.model.load import load
from qqonnx.model.select import select

CONV = """<ir_version: 8, opset_import: ["": 13]>
m (float[N,8,9,9] x) => (float[N,M,H,W] y) { y = Conv(x, w, b) }"""
MATMUL = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,33] x) => (float[N,M] y) { y = MatMul(x, w) }"""


class GatherElements(OpRun):
    """As the standard says; onnx 1.23's own takes the first index of each row above 32 levels."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int) -> tuple[np.ndarray]:
        return (np.take_along_axis(data, indices.astype(np.int64), axis),)


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(path).run(None, inputs)[0]


def weights_of(path: Path) -> dict[str, np.ndarray]:
    model = load(path)
    return {g.name: decoder(g)() for g in decode_graphs(model, read_record(model).weights)}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
@pytest.mark.parametrize("levels", [2, 3, 5, 6, 8, 12, 16, 32, 40, 64, 100, 128, 200, 256])
def test_three_decoders_agree(build: Build, tmp_path: Path, levels: int, granularity: str) -> None:
    """ONNX Runtime, ONNX's reference evaluator and restore give the same weight, bit for bit."""
    shape = (33, 517) if granularity != "channel" else (2301, 5)
    model = build(MATMUL.replace("33", str(shape[0])), {"w": normal(*shape)})
    packed, plain = tmp_path / "packed.onnx", tmp_path / "plain.onnx"
    compress(model, packed, Options(levels=levels, granularity=granularity, method="uq"))
    decoded = weights_of(packed)["w"]
    proto = onnx.load(packed)
    onnx.checker.check_model(proto, full_check=True)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w", 1, shape))
    reference = ReferenceEvaluator(proto, new_ops=[GatherElements]).run(
        None, {"x": normal(2, shape[0])}
    )[1]
    np.testing.assert_array_equal(reference, decoded)
    restore(packed, plain)
    (initializer,) = onnx.load(plain).graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(initializer), decoded)
    axis = 0 if granularity == "tensor" else 1
    per_row = decoded.reshape(1, -1) if granularity == "tensor" else np.moveaxis(decoded, axis, 0)
    assert max(len(np.unique(row)) for row in per_row) <= levels


def folded_operators(packed: Path) -> set[str]:
    optimized = packed.with_name("optimized.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    ort.InferenceSession(packed, options)
    return {node.op_type for node in onnx.load(optimized).graph.node}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
@pytest.mark.parametrize("levels", [2, 4, 5, 6, 8, 12, 16, 32, 64, 128, 256])
def test_no_decode_node_survives_folding(
    build: Build, tmp_path: Path, levels: int, granularity: str
) -> None:
    text = CONV.replace("N,8", "N,128")
    model = build(text, {"w": normal(16, 128, 3, 3), "b": normal(16)})
    packed = tmp_path / "packed.onnx"
    compress(model, packed, Options(levels=levels, granularity=granularity, method="uq"))
    operators = folded_operators(packed)
    assert "Conv" in operators
    assert not operators & DECODE_OPERATORS


@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
@pytest.mark.parametrize("levels", [4, 6, 16, 128, 256])
@pytest.mark.parametrize("shape", [(1024, 2048), (512, 4096), (32768, 64)])
def test_forms_of_large_weights(
    build: Build, tmp_path: Path, shape: tuple[int, int], levels: int, granularity: str
) -> None:
    """Large weights have their own decode nodes, which decode to the same values."""
    values = normal(1024, 2048).reshape(shape)
    text = MATMUL.replace("33", str(shape[0]))
    packed = tmp_path / "packed.onnx"
    options = Options(levels=levels, granularity=granularity, method="uq")
    report = compress(build(text, {"w": values}), packed, options)
    # compress has compared the decoded values with the plan, bit for bit.
    assert not folded_operators(packed) & DECODE_OPERATORS
    (seen,) = inspect(packed).weights
    (told,) = report.weights
    assert (seen.levels_used, seen.bytes_after) == (told.levels_used, told.bytes_after)
    assert seen.entropy == pytest.approx(told.entropy)


def test_channels_in_the_middle(build: Build, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[1,64,9,9] x) => (float[N,M,H,W] y) { y = ConvTranspose(x, w) }"""
    model = build(text, {"w": normal(64, 24, 3, 3)})
    for levels in (16, 200):
        packed = tmp_path / f"{levels}.onnx"
        report = compress(model, packed, Options(levels=levels, granularity="channel", method="uq"))
        assert report.weights[0].granularity == "channel"
        assert not folded_operators(packed) & DECODE_OPERATORS


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
def test_dtypes_keep_theirs(build: Build, tmp_path: Path, dtype: type, granularity: str) -> None:
    name = {np.float16: "float16", np.float32: "float", np.float64: "double"}.get(dtype, "bfloat16")
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    m ({name}[N,33] x) => ({name}[N,M] y) {{ y = MatMul(x, w) }}"""
    values = normal(33, 517, dtype=dtype)
    packed = tmp_path / "packed.onnx"
    report = compress(build(text, {"w": values}), packed, Options(bits=4, granularity=granularity))
    assert weights_of(packed)["w"].dtype == dtype
    if dtype is ml_dtypes.bfloat16:
        # ONNX Runtime multiplies no bfloat16 matrices on the CPU.
        assert "plain.onnx: ONNX Runtime does not load it" in (report.outputs.reason or "")
    else:
        assert report.outputs.equal


def test_bfloat16_behind_a_cast(build: Build, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,33] x) => (float[N,M] y) { v = Cast<to = 1>(w)  y = MatMul(x, v) }"""
    model = build(text, {"w": normal(33, 517, dtype=ml_dtypes.bfloat16)})
    report = compress(model, tmp_path / "packed.onnx", Options(bits=4))
    assert report.weights[0].bytes_before == 2 * 33 * 517


@given(
    st.sampled_from([2, 16, 22, 200]), st.sampled_from(["float16", "bfloat16"]), st.integers(0, 9)
)
def test_bfloat16_with_scales_decodes_as_the_nodes_do(levels: int, scale: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        m (float[N,40] x) => (float[N,M] y) { v = Cast<to = 1>(w)  y = MatMul(x, v) }""")
    values = normal(40, 300, dtype=ml_dtypes.bfloat16)
    model.graph.initializer.append(tensor_of(values, "w"))
    loaded = ir.from_proto(model)
    weights, _ = select(loaded)
    codebook = random.standard_normal(levels).astype(ml_dtypes.bfloat16)
    scales = random.uniform(0.1, 9, 300).astype(np.dtype(getattr(ml_dtypes, scale, scale)))
    indices = random.integers(0, levels, values.shape, np.uint8)
    stored = stored_weight(
        weights[0], indices, codebook, scales, method="kmeans", granularity="scale"
    )
    rewrite(loaded, [stored])
    (graph,) = decode_graphs(loaded, {"w"})
    assert digest(decoder(graph)()) == stored.digest()


def test_shared_weight_is_stored_once(build: Build, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,64] x) => (float[N,64] y) { a = MatMul(x, w)  b = Tanh(a)  y = MatMul(b, w) }"""
    report = compress(build(text, {"w": normal(64, 64)}), tmp_path / "packed.onnx", Options(bits=4))
    assert [weight.name for weight in report.weights] == ["w"]
    assert report.bytes_after < 64 * 64 / 2 + 1500


@pytest.mark.parametrize(
    ("body", "shape", "axis"),
    [
        ("y = MatMul(x, w)", (64, 32), 1),
        ("y = Gemm<transB = 1>(x, w)", (32, 64), 0),
        ("y = Gemm(x, w)", (64, 32), 1),
        ("v = Transpose<perm = [1, 0]>(w)  y = MatMul(x, v)", (32, 64), 0),
        ("v = Identity(w)  y = MatMul(x, v)", (64, 32), 1),
        ('y = Einsum<equation = "nk,km->nm">(x, w)', (64, 32), None),
    ],
)
def test_channel_axis(build: Build, body: str, shape: tuple[int, ...], axis: int | None) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    m (float[N,64] x) => (float[N,M] y) {{ {body} }}"""
    weights, _ = select(load(build(text, {"w": normal(*shape)})))
    assert [(weight.name, weight.channel_axis) for weight in weights] == [("w", axis)]


def test_subgraphs_functions_and_constants(build: Build, tmp_path: Path) -> None:
    values, others = (
        ", ".join(str(v) for v in normal(64 * 64, seed=seed).tolist()) for seed in (0, 2)
    )
    text = f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
    m (float[N,64] x, bool c) => (float[N,64] y) {{
      k = Constant<value = float[64,64] {{{values}}}>()
      a = MatMul(x, k)
      b = If(c) <
        then_branch = t () => (float[N,64] p) {{ p = MatMul(a, outer) }},
        else_branch = e () => (float[N,64] q) {{
          inner = Constant<value = float[64,64] {{{others}}}>()
          q = MatMul(a, inner)
        }}>
      y = own.layer(b)
    }}
    <domain: "own", opset_import: ["": 17]>
    layer (i) => (o) {{
      f = Constant<value = float[64,64] {{{values}}}>()
      o = MatMul(i, f)
    }}"""
    model = build(text, {"outer": normal(64, 64, seed=1)})
    packed, plain = tmp_path / "packed.onnx", tmp_path / "plain.onnx"
    report = compress(model, packed, Options(method="kmeans", bits=8))
    assert {weight.name for weight in report.weights} == {"k", "outer", "inner", "f"}
    assert report.bytes_after < report.bytes_before / 2
    restore(packed, plain)
    for chosen in (True, False):
        inputs = {"x": normal(3, 64), "c": np.array(chosen)}
        exact = run(model, **inputs)
        close = np.abs(run(packed, **inputs) - exact).max() / np.abs(exact).max()
        assert close < 0.1
        np.testing.assert_allclose(
            run(plain, **inputs), run(packed, **inputs), rtol=1e-4, atol=1e-3
        )


def test_bias_only_when_asked(build: Build, tmp_path: Path) -> None:
    model = build(CONV, {"w": normal(64, 8, 3, 3), "b": normal(64)})
    plain = compress(model, tmp_path / "a.onnx", Options(method="kmeans", min_size=1))
    assert [(s.name, s.reason) for s in plain.skipped] == [("b", "a bias")]
    weights, _ = select(load(model), include_bias=True)
    assert {weight.name for weight in weights} == {"w", "b"}


def test_overridable_initializer_is_left_alone(build: Build) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,33] x, float[33,64] w) => (float[N,64] y) { y = MatMul(x, w) }"""
    weights, skipped = select(load(build(text, {"w": normal(33, 64)})))
    assert not weights
    assert "input of the model" in skipped[0].reason


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_old_opsets_are_converted(build: Build, tmp_path: Path, opset: int) -> None:
    text = f"""<ir_version: 3, opset_import: ["": {opset}]>
    m (float[2,8,9,9] x, float[64,8,3,3] w) => (float[2,64,1,1] y) {{
      a = Conv(x, w)  b = Relu(a)  y = GlobalAveragePool(b) }}"""
    model = build(text, {"w": normal(64, 8, 3, 3)})
    packed = tmp_path / "packed.onnx"
    compress(model, packed, Options(bits=8))
    proto = onnx.load(packed)
    assert proto.opset_import[0].version == 13
    assert [value.name for value in proto.graph.input] == ["x"]
    images = normal(2, 8, 9, 9)
    np.testing.assert_allclose(run(packed, x=images), run(model, x=images), atol=0.02)


def test_external_data_in_and_out(build: Build, tmp_path: Path) -> None:
    model = build(MATMUL, {"w": normal(33, 517)})
    external = tmp_path / "external.onnx"
    onnx.save(onnx.load(model), external, save_as_external_data=True, location="weights.bin")
    packed = tmp_path / "packed.onnx"
    report = compress(external, packed, Options(bits=8), external_data=True)
    assert report.bytes_before > 33 * 517 * 4
    assert (tmp_path / "packed.onnx.data").stat().st_size >= 33 * 517
    assert packed.stat().st_size < 3000
    (tmp_path / "weights.bin").unlink()
    assert run(packed, x=normal(1, 33)).shape == (1, 517)


@pytest.mark.parametrize("location", ["../outside.bin", "missing.bin"])
def test_external_data_elsewhere(build: Build, tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(4 * 33 * 517))
    proto = onnx.load(build(MATMUL, {"w": normal(33, 517)}))
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], location)
    proto.graph.initializer[0].ClearField("raw_data")
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(QqonnxError, match="outside|missing"):
        compress(folder / "m.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
def test_weights_that_are_not_finite(
    build: Build, tmp_path: Path, bad: float, granularity: str
) -> None:
    """They are left alone and named; where nothing else is to compress, that is an error."""
    values = normal(33, 517)
    values[3, 5] = bad
    options = Options(bits=2, granularity=granularity)
    with pytest.raises(QqonnxError, match="no weight to compress .1 of 17061 values are not fin"):
        compress(build(MATMUL, {"w": values}), tmp_path / "o.onnx", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]
    text = MATMUL.replace("y = MatMul(x, w)", "v = MatMul(x, u)  z = MatMul(v, w)  y = Relu(z)")
    model = build(text, {"u": normal(33, 33, seed=1), "w": values})
    report = compress(model, tmp_path / "o.onnx", options)
    assert [weight.name for weight in report.weights] == ["u"]
    assert [entry.name for entry in report.skipped if entry.is_defect] == ["w"]
    calibrated = compress(model, options=Options(levels=6), calibration=Calibration())
    assert [weight.name for weight in calibrated.weights] == ["u"]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "scale"])
@pytest.mark.parametrize(
    "values",
    [
        np.zeros((33, 517), np.float32),
        np.full((33, 517), 0.7, np.float32),
        np.sign(normal(33, 517)),
        normal(33, 517) * np.float32(1e-42),
        normal(33, 517) * np.float32(1e37),
        np.where(np.arange(517) % 2 == 0, 0, normal(33, 517)).astype(np.float32),
    ],
    ids=["zeros", "constant", "signs", "denormal", "huge", "zero channels"],
)
def test_hard_weights(build: Build, tmp_path: Path, values: np.ndarray, granularity: str) -> None:
    packed = tmp_path / "packed.onnx"
    compress(build(MATMUL, {"w": values}), packed, Options(bits=4, granularity=granularity))
    decoded = weights_of(packed)["w"]
    assert np.isfinite(decoded).all()
    if len(np.unique(values)) <= 16 and granularity != "scale":
        np.testing.assert_array_equal(decoded, values)


def test_inspect_reads_back_what_was_reported(build: Build, tmp_path: Path) -> None:
    model = build(CONV, {"w": normal(64, 8, 3, 3), "b": normal(64)})
    for levels in (6, 16, 128):
        report = compress(model, tmp_path / "o.onnx", Options(levels=levels, granularity="scale"))
        (seen,) = inspect(tmp_path / "o.onnx").weights
        (told,) = report.weights
        assert (seen.shape, seen.levels_used, seen.bytes_after) == (
            told.shape,
            told.levels_used,
            told.bytes_after,
        )
        assert seen.entropy == pytest.approx(told.entropy)
        assert seen.sqnr == pytest.approx(told.sqnr, rel=1e-3)


def test_inspect_tells_of_reinflated_weights(build: Build, tmp_path: Path) -> None:
    packed, folded = tmp_path / "packed.onnx", tmp_path / "folded.onnx"
    compress(build(MATMUL, {"w": normal(33, 517)}), packed)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folded)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort.InferenceSession(packed, options)
    model = onnx.load(folded)
    onnx.helper.set_model_props(model, {p.key: p.value for p in onnx.load(packed).metadata_props})
    onnx.save(model, folded)
    assert inspect(folded).inflated == ("w",)


def test_compressing_twice_is_refused(build: Build, tmp_path: Path) -> None:
    compress(build(MATMUL, {"w": normal(33, 517)}), tmp_path / "a.onnx")
    with pytest.raises(QqonnxError, match="compressed already"):
        compress(tmp_path / "a.onnx", tmp_path / "b.onnx")


def test_gates_of_recurrent_layers_in_another_order(build: Build, tmp_path: Path) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[5, 1, 16] x) => (float[5, 1, 1, 16] y)
        <int64[1] zero = {0}, int64[1] half = {32}, int64[1] end = {64}> {
            first = Slice(w, zero, half, zero)
            second = Slice(w, half, end, zero)
            joined = Concat <axis = 0> (second, first)
            gates = Unsqueeze(joined, zero)
            moving = Concat <axis = 1> (x, x)
            y = LSTM <hidden_size = 16> (x, gates, r)
        }
    """
    path = build(text, {"w": normal(64, 16), "r": normal(1, 64, 16)})
    weights, _ = select(load(path))
    assert {weight.name for weight in weights} == {"w", "r"}
    report = compress(path, tmp_path / "o.onnx", Options(bits=4))
    assert report.outputs.equal


def test_files_of_the_first_record_format_are_read(tmp_path: Path) -> None:
    """In the first schema, each weight has a full record."""
    old = Path(__file__).parents[1] / "data" / "compressed_0.1.0.onnx"
    assert '"common"' not in onnx.load(old).metadata_props[0].value
    widths = {weight.name: (weight.levels, weight.granularity) for weight in inspect(old).weights}
    assert widths == {"w": (16, "scale"), "v": (8, "scale")}
    assert restore(old, tmp_path / "plain.onnx") == 2
    x = normal(3, 48)
    np.testing.assert_allclose(run(tmp_path / "plain.onnx", x=x), run(old, x=x), rtol=1e-3)

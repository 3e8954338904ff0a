"""ONNX operators in PyTorch compute what ONNX Runtime and the ONNX reference compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import Build, normal
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch")

from qqonnx.errors import QqonnxError  # noqa: E402
from qqonnx.finetune.executor import compile_graph  # noqa: E402
from qqonnx.finetune.operators import OPERATORS  # noqa: E402

pytestmark = pytest.mark.torch

Case = tuple[str, list[object], dict[str, object], int, int]


def case(op: str, *inputs: object, outputs: int = 1, opset: int = 18, **attributes: object) -> Case:
    return op, list(inputs), attributes, outputs, opset


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def i0(number: int) -> np.ndarray:
    return np.array(number, np.int64)


def positive(*shape: int) -> np.ndarray:
    return np.abs(normal(*shape)) + 0.1


def truth(*shape: int, seed: int = 0) -> np.ndarray:
    return normal(*shape, seed=seed) > 0


X1, X2, X3 = normal(2, 4, 11), normal(2, 4, 9, 7), normal(2, 4, 6, 5, 7)
M = normal(3, 4, 5)
UNARY = [
    *("Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Flatten", "Floor", "HardSigmoid"),
    *("HardSwish", "Identity", "IsNaN", "LeakyRelu", "LogSoftmax", "Mish", "Neg", "Reciprocal"),
    *("Relu", "Round", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Softmax", "Softplus"),
    *("Softsign", "Tanh", "ThresholdedRelu", "Transpose"),
]
BINARY = [
    *("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"),
    *("Mul", "PRelu", "Sub"),
]
REDUCING = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]

CASES: list[Case] = [
    *(case(op, M) for op in UNARY),
    *(case(op, M, normal(4, 1, seed=1)) for op in BINARY),
    *(case(op, positive(3, 4)) for op in ("Log", "Sqrt")),
    *(case(op, truth(3, 4), truth(4, seed=1)) for op in ("And", "Or", "Xor")),
    *(case(op, M, normal(5, seed=1), normal(4, 5, seed=2)) for op in ("Max", "Mean", "Min", "Sum")),
    case("Not", truth(3, 4)),
    case("Add", i64(1, 2), i64(3, -4)),
    case("Div", i64(7, -7, 9), i64(2, 2, -4)),
    case("Mod", i64(7, -7, 9), i64(2, 2, -4)),
    case("Mod", M, positive(3, 4, 5), fmod=1),
    case("Pow", positive(3, 4), np.float32(1.7)),
    case("Pow", positive(3, 4), normal(4)),
    case("Pow", i64(2, 3), np.float32(2)),
    case("Clip", M, np.float32(-0.5), np.float32(0.5)),
    case("Clip", M, None, np.float32(0.5)),
    case("Clip", M, np.float32(-0.5)),
    case("Clip", M),
    case("Elu", M, alpha=0.3),
    case("Celu", M, alpha=0.3),
    case("Selu", M, alpha=0.3, gamma=2.0),
    case("LeakyRelu", M, alpha=0.3),
    case("HardSigmoid", M, alpha=0.4, beta=0.3),
    case("Gelu", M, opset=20),
    case("Gelu", M, opset=20, approximate="tanh"),
    case("Swish", M, opset=24, alpha=1.5),
    case("Softmax", M, axis=1),
    case("LogSoftmax", M, axis=0),
    case("Where", truth(3, 4, 5), M, np.float32(2)),
    # Reductions
    *(case(f"Reduce{kind}", positive(3, 4, 5), i64(1, -1)) for kind in REDUCING),
    *(case(f"Reduce{kind}", positive(3, 4, 5), keepdims=0) for kind in REDUCING),
    case("ReduceMean", M, axes=[0, -1], opset=13),
    case("ReduceSum", M, i64(), noop_with_empty_axes=1),
    case("ReduceSum", i64(1, 2, 3)),
    case("ArgMax", M, axis=1),
    case("ArgMin", M, axis=-1, keepdims=0),
    case("CumSum", M, i0(1)),
    case("CumSum", M, i0(-1), exclusive=1, reverse=1),
    case("TopK", M, i64(3), outputs=2),
    case("TopK", M, i64(2), outputs=2, axis=0, largest=0),
    *(case(op, x) for op in ("GlobalAveragePool", "GlobalMaxPool") for x in (X1, X2, X3)),
    # Layers
    case("Conv", X1, normal(6, 4, 3), normal(6)),
    case("Conv", X2, normal(6, 2, 3, 2), None, group=2, strides=[2, 1], pads=[1, 0, 1, 0]),
    case("Conv", X2, normal(6, 4, 3, 3), normal(6), pads=[0, 1, 2, 0], dilations=[2, 1]),
    case("Conv", X2, normal(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", X2, normal(4, 1, 2, 2), group=4, auto_pad="SAME_LOWER"),
    case("Conv", X2, normal(4, 4, 2, 2), auto_pad="VALID"),
    case("Conv", X3, normal(2, 4, 3, 2, 1), strides=[2, 1, 2]),
    case("ConvTranspose", X1, normal(4, 3, 3), normal(3), strides=[2]),
    case("ConvTranspose", X2, normal(4, 3, 3, 3), normal(6), group=2, pads=[1, 0, 0, 1]),
    case(
        *("ConvTranspose", X2, normal(4, 2, 3, 3), normal(2)),
        strides=[2, 3], output_padding=[1, 2], dilations=[1, 2],
    ),
    case("ConvTranspose", X2, normal(4, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", X2, normal(4, 2, 3, 3), strides=[2, 2], output_shape=[18, 14]),
    case("ConvTranspose", X3, normal(4, 2, 2, 2, 2)),
    case("MaxPool", X1, kernel_shape=[3], strides=[2]),
    case("MaxPool", X2, kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 2]),
    case("MaxPool", X2, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", X2, kernel_shape=[2, 2], dilations=[2, 2]),
    case("MaxPool", X2, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("MaxPool", X3, kernel_shape=[2, 2, 2]),
    case("AveragePool", X1, kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("AveragePool", X2, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", X2, kernel_shape=[3, 3], pads=[0, 1, 2, 0], strides=[2, 1]),
    case("AveragePool", X2, kernel_shape=[3, 3], pads=[0, 1, 2, 0], count_include_pad=1),
    case("AveragePool", X2, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("AveragePool", X3, kernel_shape=[2, 3, 2]),
    case("BatchNormalization", X2, normal(4), normal(4), normal(4), positive(4), epsilon=0.01),
    case("BatchNormalization", M[0], normal(5), normal(5), normal(5), positive(5)),
    case("InstanceNormalization", X2, normal(4), normal(4), epsilon=0.01),
    case("GroupNormalization", X2, normal(2), normal(2), num_groups=2),
    case("GroupNormalization", X2, normal(4), normal(4), num_groups=2, opset=21),
    case("LayerNormalization", M, normal(5), normal(5), epsilon=0.01),
    case("LayerNormalization", M, normal(4, 5), axis=1),
    case("LayerNormalization", M, normal(1), normal(1), axis=1),
    case("RMSNormalization", M, normal(5), opset=23),
    case("LRN", X2, size=3, alpha=0.1, beta=0.6, bias=1.2),
    case("LpNormalization", M, axis=1, p=1),
    case("LpNormalization", M),
    case("Gemm", normal(3, 4), normal(4, 5), normal(5)),
    case("Gemm", normal(3, 4), normal(4, 5)),
    case("Gemm", normal(3, 4), normal(5, 4), normal(5), transB=1),
    case("Gemm", normal(4, 3), normal(5, 4), normal(3, 1), transA=1, transB=1, alpha=2.0, beta=0.5),
    case("Gemm", normal(3, 4), normal(4, 5), np.float32(1.5)),
    case("Gemm", normal(3, 4), normal(4, 4), normal(3, 4)),
    case("MatMul", M, normal(5, 2)),
    case("MatMul", M, normal(3, 5, 2)),
    case("MatMul", M, normal(5)),
    case("Einsum", normal(2, 3, 4, 5), normal(2, 3, 6, 5), equation="bhid,bhjd->bhij"),
    # Shapes
    case("Flatten", X2, axis=-2),
    case("Flatten", X2, axis=0),
    case("Reshape", X2, i64(0, -1, 7)),
    case("Reshape", np.zeros((0, 3), np.float32), i64(3, 0), allowzero=1),
    case("Transpose", X2, perm=[0, 2, 3, 1]),
    case("Squeeze", normal(1, 3, 1)),
    case("Squeeze", normal(1, 3, 1), i64(-1)),
    case("Unsqueeze", M, i64(0, -1)),
    case("Unsqueeze", M, i64(2, 1)),
    case("Concat", M, normal(3, 2, 5), axis=1),
    case("Split", X2, i64(1, 3), axis=1, outputs=2),
    case("Split", X2, axis=1, outputs=2, opset=13),
    case("Split", X1, axis=-1, num_outputs=3, outputs=3),
    case("Slice", X2, i64(1, -3), i64(1000, 7), i64(2, 3)),
    case("Slice", X2, i64(0, 1), i64(2, 3)),
    case("Slice", X2, i64(7, -1), i64(1, -100), i64(-2, 3), i64(-2, -1)),
    case("Slice", X2, i64(3), i64(1), i64(1)),
    case("Gather", M, i64(2, 0, -1)),
    case("Gather", M, np.array([[0, 3], [1, -4]], np.int32), axis=1),
    case("Gather", M, i0(-1), axis=2),
    case("GatherElements", M[0], np.array([[0, -1, 2, 1, 0]]), axis=0),
    case("GatherND", M, np.array([[0, 1], [2, -1]])),
    case("ScatterND", M, np.array([[0, 1], [2, 3]]), normal(2, 5, seed=1)),
    case("ScatterElements", M[0], np.array([[0, -1, 2, 1, 0]]), normal(1, 5, seed=1)),
    case("Shape", X2, start=1, end=-1),
    case("Cast", M * 9, to=TensorProto.INT64),
    case("Cast", i64(0, 2), to=TensorProto.BOOL),
    case("CastLike", i64(0, 2), np.float32(1)),
    case("Dropout", M),
    case("ConstantOfShape", i64(2, 3), value=numpy_helper.from_array(np.array([7], np.int64))),
    case("ConstantOfShape", i64(2, 3)),
    case("Expand", normal(3, 1), i64(2, 1, 4)),
    case("Range", i0(2), i0(11), i0(3)),
    case("Range", np.float32(2), np.float32(-1), np.float32(-0.7)),
    case("Tile", M, i64(1, 2, 3)),
    case("Pad", X2, i64(0, 1, 2, 0, 0, 0, 1, 3), np.float32(1.5)),
    case("Pad", X2, i64(0, 0, -1, 0, 0, 0, 1, -3)),
    case("Pad", X2, i64(1, 2, 3, 1), None, i64(3, 2)),
    *(case("Pad", X2, i64(0, 0, 2, 0, 0, 0, 1, 3), mode=mode) for mode in ("reflect", "edge")),
    case("Pad", X2, i64(0, 0, 2, 0, 0, 0, 1, 3), mode="wrap", opset=19),
    case("DepthToSpace", X2, blocksize=2),
    case("DepthToSpace", X2, blocksize=2, mode="CRD"),
    case("SpaceToDepth", normal(1, 3, 4, 6), blocksize=2),
    case("Trilu", M),
    case("Trilu", M, i0(-1), upper=0),
    case("OneHot", i64(1, -1, 0), i0(4), np.array([2, 5], np.float32)),
    case("OneHot", i64(1, 3, 0), i0(4), np.array([0, 1], np.float32), axis=0),
    case("NonZero", np.round(M)),
    case("Resize", X2, None, np.array([1, 1, 2, 1.5], np.float32)),
    *(
        case(
            *("Resize", X2, None, None, i64(2, 4, *size)),
            mode=mode, coordinate_transformation_mode=places, **more,
        )
        for size in ((13, 14), (5, 7), (9, 1))
        for mode, more in [
            ("nearest", {"nearest_mode": "floor"}), ("nearest", {"nearest_mode": "ceil"}),
            ("nearest", {"nearest_mode": "round_prefer_ceil"}),
            ("linear", {}), ("cubic", {"cubic_coeff_a": -0.5}),
        ]
        for places in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        # In the other cases a position is at a rounding edge, where float32 errors decide.
        if mode != "nearest" or (places != "align_corners" and size != (9, 1))
    ),
    case("Resize", X2, None, np.array([2, 3], np.float32), mode="linear", axes=[2, 3]),
    case("Resize", X2, None, np.array([2, 3], np.float32), mode="linear", axes=[2, 3], opset=19,
         coordinate_transformation_mode="half_pixel_symmetric"),
    case("Resize", X2, None, np.array([1, 1, 2, 2], np.float32), mode="cubic", exclude_outside=1),
]  # fmt: skip


def model_of(op, inputs, attributes, outputs, opset) -> tuple[onnx.ModelProto, dict]:
    """Return a model of one node, and its inputs by name."""
    arrays = {
        f"x{index}": np.asarray(array) for index, array in enumerate(inputs) if array is not None
    }
    names = ["" if array is None else f"x{index}" for index, array in enumerate(inputs)]
    results = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op, names, results, **attributes)
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, kinds[name], arrays[name].shape) for name in arrays],
        [helper.make_empty_tensor_value_info(name) for name in results],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8 if opset < 20 else 11
    return model, arrays


def oracle(model: onnx.ModelProto, arrays: dict) -> list[np.ndarray]:
    """Run ONNX Runtime, or the ONNX reference where ONNX Runtime lacks the operator."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        typed = onnx.shape_inference.infer_shapes(model)
        return ort.InferenceSession(typed.SerializeToString(), options).run(None, arrays)
    except Exception:
        return ReferenceEvaluator(model).run(None, arrays)


@pytest.mark.parametrize("chosen", CASES, ids=lambda chosen: chosen[0])
def test_operators(chosen: Case) -> None:
    model, arrays = model_of(*chosen)
    graph = compile_graph(model)
    actual = graph({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    expected = oracle(model, arrays)
    assert len(actual) == len(expected)
    for mine, right in zip(actual, expected, strict=True):
        assert mine.numpy().dtype == right.dtype
        assert tuple(mine.shape) == right.shape
        np.testing.assert_allclose(mine.numpy(), right, rtol=1e-4, atol=1e-5)


def test_every_operator_has_a_case() -> None:
    assert set(OPERATORS) == {chosen[0] for chosen in CASES}


def test_a_model_of_this_repository(digits_model, digits_data) -> None:
    (value,) = onnx.load(digits_model).graph.input
    sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
    images = normal(3, *sides)
    (actual,) = compile_graph(onnx.load(digits_model))({value.name: torch.from_numpy(images)})
    (right,) = ort.InferenceSession(digits_model).run(None, {value.name: images})
    np.testing.assert_allclose(actual.numpy(), right, rtol=1e-3, atol=1e-3 * np.abs(right).max())


TEXT = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,4] x) => (float[N,2] y) {
  h = MatMul(x, w)  z = Relu(h)  s = Sigmoid(h)  p = Mul(z, s)  y = Add(p, b)  }"""


def test_constants_replace_initializers_and_get_gradients(build: Build) -> None:
    model = onnx.load(build(TEXT, {"w": normal(4, 2), "b": normal(2)}))
    other = torch.from_numpy(normal(4, 2, seed=1)).requires_grad_()
    x = torch.from_numpy(normal(3, 4, seed=2))
    graph = compile_graph(model)
    (actual,) = graph({"x": x}, {"w": other})
    actual.sum().backward()
    hidden = x @ other
    right = torch.relu(hidden) * torch.sigmoid(hidden) + torch.from_numpy(normal(2))
    torch.testing.assert_close(actual, right)
    (gradient,) = torch.autograd.grad(right.sum(), other)
    torch.testing.assert_close(other.grad, gradient)
    (plain,) = graph({"x": x})
    assert not torch.allclose(plain, actual)


def test_values_are_dropped_after_their_last_use(build: Build) -> None:
    graph = compile_graph(onnx.load(build(TEXT, {"w": normal(4, 2), "b": normal(2)})))
    assert [step.last_uses for step in graph.steps] == [("x",), (), ("h",), ("s", "z"), ("p",)]


def test_half_precision_is_widened(build: Build) -> None:
    text = TEXT.replace("float[", "float16[")
    weights = {"w": normal(4, 2).astype(np.float16), "b": normal(2).astype(np.float16)}
    path = build(text, weights)
    (actual,) = compile_graph(onnx.load(path))({"x": torch.from_numpy(normal(3, 4))})
    (right,) = ort.InferenceSession(path).run(None, {"x": normal(3, 4).astype(np.float16)})
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), right, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("y = NonMaxSuppression(x, x)", "operator NonMaxSuppression is not supported"),
        ("y = com.microsoft.Odd(x)", "operator com.microsoft.Odd is not supported"),
        ("y = AveragePool<kernel_shape=[2], dilations=[2]>(x)", "AveragePool: dilation is not"),
        ("y = MatMul(x, x)", "finetune: MatMul: "),
        ("y, z, m, s = BatchNormalization(x, x, x, x, x)", "finetune: BatchNormalization: "),
        ("v, z = MaxPool<kernel_shape=[2]>(x)  y = Cast<to=1>(z)", "MaxPool: output 1 is not"),
    ],
    ids=["unknown", "domain", "mode", "shapes", "arguments", "output"],
)
def test_what_is_not_supported_is_named(body: str, named: str) -> None:
    text = '<ir_version: 9, opset_import: ["": 19, "com.microsoft": 1]>'
    model = onnx.parser.parse_model(f"{text} m (float[2,3,8] x) => (float y) {{ {body} }}")
    with pytest.raises(QqonnxError, match=named) as caught:
        compile_graph(model)({"x": torch.zeros(2, 3, 8)})
    assert "\n" not in str(caught.value)


def test_old_opsets_are_refused() -> None:
    text = '<ir_version: 6, opset_import: ["": 11]> m (float[2] x) => (float y) { y = Relu(x) }'
    with pytest.raises(QqonnxError, match="opset 11"):
        compile_graph(onnx.parser.parse_model(text))


FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
    "vit_b_16": 224,
}
"""Side of the images in pixels."""

FAST_FAMILIES = ("resnet18", "shufflenet_v2_x0_5", "squeezenet1_1")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST_FAMILIES else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_torchvision_families(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("onnxscript")
    from qqonnx.zoo import export

    path, size = tmp_path / "model.onnx", FAMILIES[name]
    export(name, path, weights="none", image_size=size)
    graph = compile_graph(onnx.load(path))
    images = normal(2, 3, size, size)
    (right,) = ort.InferenceSession(path).run(None, {"input": images})
    weights = {
        key: value.clone().requires_grad_()
        for key, value in graph.constants.items()
        if value.is_floating_point() and value.ndim > 1 and value.numel() > 200
    }
    (actual,) = graph({"input": torch.from_numpy(images)}, weights)
    np.testing.assert_allclose(
        actual.detach().numpy(), right, rtol=1e-3, atol=1e-3 * np.abs(right).max()
    )
    actual.square().sum().backward()
    assert all(weight.grad is not None for weight in weights.values())

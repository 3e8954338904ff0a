"""State dicts from local files: what loads, and what is refused in one line."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from pathlib import Path
from urllib.error import URLError

import pytest

from qqonnx.cli import main
from qqonnx.errors import QqonnxError
from qqonnx.zoo import architectures
from qqonnx.zoo.architectures import pretrained
from qqonnx.zoo.weights import is_copy_of, read_state_dict

torch = pytest.importorskip("torch")
models = pytest.importorskip("torchvision.models")

pytestmark = pytest.mark.torch

NAME = "squeezenet1_1"


@pytest.fixture(scope="module")
def state():
    """Weights unlike those of `weights="none"`."""
    fresh = pretrained(NAME, "none", None).module.state_dict()
    return {name: value + 0.5 for name, value in fresh.items()}


def save(state, path: Path) -> Path:
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path)
    return path


def assert_equal_states(module, expected) -> None:
    actual = module.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_round_trip(tmp_path, state, suffix):
    path = save(state, tmp_path / f"mine{suffix}")
    ready = pretrained(NAME, str(path), None)
    assert_equal_states(ready.module, state)
    assert ready.source == f"torchvision {NAME} mine{suffix}"
    assert (ready.preprocessing.resize, ready.preprocessing.crop) == (256, 224)
    assert not ready.module.training


@pytest.mark.parametrize("wrap", [
    lambda state: {"model": state, "epoch": 3},
    lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    lambda state: {name: value.double() for name, value in state.items()},
])  # fmt: skip
def test_checkpoints_of_training_scripts(tmp_path, state, wrap):
    path = save(wrap(state), tmp_path / "checkpoint.pth")
    assert_equal_states(pretrained(NAME, str(path), None).module, state)


def test_safetensors_of_an_architecture_that_asks_for_a_format_version(tmp_path):
    expected = pretrained("mnasnet0_5", "none", None).module.state_dict()
    path = save(dict(expected), tmp_path / "m.safetensors")
    assert_equal_states(pretrained("mnasnet0_5", str(path), None).module, expected)


def test_fine_tuned_to_other_classes(tmp_path):
    module = models.resnet18(num_classes=7)
    path = save(module.state_dict(), tmp_path / "seven.pth")
    assert_equal_states(pretrained("resnet18", str(path), None).module, module.state_dict())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_left_out(tmp_path, name):
    full = models.get_model(name, init_weights=False, aux_logits=True).state_dict()
    path = save(full, tmp_path / "full.pth")
    loaded = pretrained(name, str(path), None).module.state_dict()
    left_out = {key.split(".")[0] for key in full.keys() - loaded.keys()}
    assert left_out == ({"aux1", "aux2"} if name == "googlenet" else {"AuxLogits"})
    assert all(torch.equal(loaded[key], full[key]) for key in loaded)


def test_names_of_densenets_published_files(tmp_path):
    expected = pretrained("densenet121", "none", None).module.state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))", r"\1.", key): value
        for key, value in expected.items()
        if not key.endswith("num_batches_tracked")  # newer than those files
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    path = save(old, tmp_path / "old.pth")
    assert_equal_states(pretrained("densenet121", str(path), None).module, expected)


def test_a_copy_of_a_published_file_counts_as_that_file(tmp_path, monkeypatch):
    # resnet50's second weights resize to 232 pixels, the first to 256.
    monkeypatch.setattr(architectures, "is_copy_of", lambda _, url: "0676ba61" in url)
    path = save(models.resnet50().state_dict(), tmp_path / "renamed.pth")
    ready = pretrained("resnet50", str(path), None)
    assert ready.source == "torchvision resnet50 IMAGENET1K_V1"
    assert ready.preprocessing.resize == 256
    assert pretrained("resnet50", "none", None).preprocessing.resize == 232


def test_is_copy_of_compares_the_hash_in_the_name(tmp_path):
    path = tmp_path / "any.pth"
    path.write_bytes(b"weights")
    digits = hashlib.sha256(b"weights").hexdigest()[:8]
    assert is_copy_of(path, f"https://example.org/models/net-{digits}.pth")
    assert not is_copy_of(path, "https://example.org/models/net-00000000.pth")
    assert not is_copy_of(path, "https://example.org/models/net.pth")


@pytest.mark.parametrize(("damage", "message"), [
    (lambda s: s.pop("features.0.weight"), "it lacks 'features.0.weight'$"),
    (lambda s: s.update(extra=torch.ones(2)), "it has unknown 'extra'$"),
    (lambda s: s.update({"features.0.bias": torch.ones(5)}),
     r"'features.0.bias' has shape \[5\], the model \[64\]$"),
    (lambda s: s["features.0.bias"].fill_(float("nan")), "'features.0.bias' contains NaN or inf"),
    (lambda s: s.update({"epoch": 3}), "not a state dict: 'epoch' is a int, not a tensor$"),
])  # fmt: skip
def test_state_dict_that_does_not_fit(tmp_path, state, damage, message):
    damaged = {name: value.clone() for name, value in state.items()}
    damage(damaged)
    path = save(damaged, tmp_path / "damaged.pth")
    with pytest.raises(QqonnxError, match=message) as caught:
        pretrained(NAME, str(path), None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_architectures_state_dict(tmp_path, state):
    path = save(state, tmp_path / "squeezenet.pth")
    with pytest.raises(QqonnxError, match=r"resnet18: .*: it lacks 'conv1.weight' and \d+ more$"):
        pretrained("resnet18", str(path), None)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("write", [
    lambda value, path: torch.save(value, path),
    lambda value, path: path.write_bytes(pickle.dumps(value)),
], ids=["torch", "pickle"])  # fmt: skip
def test_nothing_in_a_pickle_is_executed(tmp_path, write):
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    write({"weight": Malicious(target)}, path)
    with pytest.raises(QqonnxError, match="refused: contains more than tensors") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_a_pickle_that_would_execute_something_ends_the_command(tmp_path, monkeypatch, capsys):
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    torch.save({"weight": Malicious(target)}, path)
    for command in ("export", "convert"):
        words = [command, NAME, "-o", str(tmp_path / "o.onnx"), "--weights", str(path)]
        monkeypatch.setattr(sys, "argv", ["qqonnx", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert str(path) in line
        assert not out
        assert [entry.name for entry in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", ["empty", "text", "truncated", "folder"])
def test_files_that_cannot_be_read(tmp_path, state, suffix, content):
    path = save(state, tmp_path / f"file{suffix}")
    whole = path.read_bytes()
    path.write_bytes({"text": b"hello\nworld", "truncated": whole[:5000]}.get(content, b""))
    if content == "folder":
        path.unlink()
        path.mkdir()
    with pytest.raises(QqonnxError, match=re.escape(str(path))) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [[1, 2], {}, torch.ones(3)], ids=["list", "empty", "tensor"])
def test_files_that_hold_no_state_dict(tmp_path, value):
    path = save(value, tmp_path / "v.pth")
    with pytest.raises(QqonnxError, match="not a state dict: contains a"):
        read_state_dict(path)


def test_unknown_weights_list_what_there_is():
    with pytest.raises(QqonnxError, match=r"DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2, none$"):
        pretrained("resnet50", "IMAGENET1K_V9", None)


@pytest.mark.parametrize("failure", [
    URLError(OSError(-2, "Name or service not known")),
    RuntimeError('invalid hash value (expected "f37072fd", got "00")'),
    TimeoutError("timed out"),
])  # fmt: skip
def test_failed_download_says_what_else_to_do(monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(QqonnxError, match="--weights PATH, or --weights none") as caught:
        pretrained("resnet18", "DEFAULT", None)
    message = str(caught.value)
    assert message.startswith("resnet18: cannot download the weights IMAGENET1K_V1 (resnet18-")
    assert "\n" not in message
    assert "https://" not in message

"""Folders of models: layout, names, rules, and runs that go on where another one stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from building import normal
from repositories import HEAD, encoder_decoder, files, write

import qqonnx
from qqonnx import Calibration, OptionError, Options, QqonnxError, Target, compress_folder, inspect
from qqonnx.folders.contents import STATE_FILE, UNFINISHED

EIGHT = Options(bits=8, granularity="scale")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return encoder_decoder(tmp_path / "repository")


def states(report: qqonnx.folders.results.FolderReport) -> dict[str, str]:
    return {model.path.as_posix(): model.state for model in report.models}


def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)


def test_the_same_folder_comes_out_smaller(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = compress_folder(repository, out, EIGHT)
    assert set(states(report).values()) == {"compressed"}
    assert set(files(out)) == {
        STATE_FILE,
        "config.json",
        "tokenizer/vocab.txt",
        "onnx/encoder_model.onnx",
        "onnx/encoder_model.onnx_data",
        "onnx/decoder_model_merged.onnx",
        "vision/model.onnx",
    }
    for name in ("config.json", "tokenizer/vocab.txt"):
        assert (out / name).read_bytes() == (repository / name).read_bytes()
    assert report.bytes_after < report.bytes_before / 2.5
    assert report.bytes_after == sum(map(len, files(out).values())) - len(
        (out / STATE_FILE).read_bytes()
    )
    for model in report.models:
        assert model.quality is not None
        assert model.quality.cosine > 0.999


def test_both_branches_of_a_merged_decoder(repository: Path, tmp_path: Path) -> None:
    name = "onnx/decoder_model_merged.onnx"
    compress_folder(repository, tmp_path / "out", EIGHT)
    assert {weight.name for weight in inspect(tmp_path / "out" / name).weights} == {
        "then_w",
        "else_w",
        "head",
    }
    for branch in (True, False):
        inputs = {"x": normal(3, 48), "past": normal(3, 64, seed=1)}
        given = {**inputs, "use_cache_branch": np.array([branch])}
        (exact,), (other,) = (
            run(folder / name, **given) for folder in (repository, tmp_path / "out")
        )
        assert np.abs(exact - other).max() < 0.03 * np.abs(exact).max()


def test_a_second_run_writes_nothing(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = compress_folder(repository, out, EIGHT)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    second = compress_folder(repository, out, EIGHT)
    assert set(states(second).values()) == {"unchanged"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert second.copied == ()
    assert [m.quality for m in second.models] == [m.quality for m in first.models]
    assert (second.bytes_before, second.bytes_after) == (first.bytes_before, first.bytes_after)


@pytest.mark.parametrize("change", ["options", "source", "output", "data", "calibration"])
def test_what_changed_is_made_again(repository: Path, tmp_path: Path, change: str) -> None:
    """Modification times stay as they were: only contents count."""
    out, options, calibration = tmp_path / "out", EIGHT, None
    feeds = tmp_path / "feeds.npz"
    if change == "calibration":
        write(tmp_path / "one" / "model.onnx", HEAD, w=(48, 64))
        repository, calibration = tmp_path / "one", Calibration(str(feeds))
        options = Options(bits=4)
        np.savez(feeds, pixels=normal(40, 48))
    compress_folder(repository, out, options, calibration=calibration)
    encoder = "onnx/encoder_model.onnx"
    if change == "options":
        options = Options(bits=6, granularity="scale")
    elif change == "calibration":
        np.savez(feeds, pixels=normal(40, 48, seed=1) * np.arange(48, dtype="f"))
    else:
        file = {
            "source": repository / f"{encoder}_data",
            "output": out / encoder,
            "data": out / f"{encoder}_data",
        }[change]
        times = file.stat()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = states(compress_folder(repository, out, options, calibration=calibration))
    if change in ("options", "calibration"):
        assert set(again.values()) == {"compressed"}
    else:
        assert {name for name, state in again.items() if state == "compressed"} == {encoder}
    fresh = tmp_path / "fresh"
    compress_folder(repository, fresh, options, calibration=calibration)
    assert files(fresh) == files(out)


def converting(*arguments: object) -> subprocess.Popen[str]:
    code = "from qqonnx.cli import convert_model; convert_model()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_and_finished_by_the_same_command(repository: Path, tmp_path: Path) -> None:
    arguments = ["-o", tmp_path / "out", "--bits", 4, "--granularity", "scale"]
    whole = tmp_path / "whole"
    start = time.monotonic()
    done = converting(repository, "-o", whole, *arguments[2:])
    assert done.communicate()[1] == ""
    seconds = time.monotonic() - start
    expected = files(whole)
    for share in (0.35, 0.5, 0.6, 0.7, 0.8, 0.9):
        process = converting(repository, *arguments)
        time.sleep(seconds * share)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = files(tmp_path / "out") if (tmp_path / "out").exists() else {}
        for name, content in found.items():
            if not name.startswith(UNFINISHED) and name != STATE_FILE and ".qqonnx-" not in name:
                assert content == expected[name], name
    process = converting(repository, *arguments)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert files(tmp_path / "out") == expected


def test_one_bad_model(repository: Path, tmp_path: Path) -> None:
    (repository / "onnx" / "bad.onnx").write_bytes(b"not a model")
    process = converting(repository, "-o", tmp_path / "out", "--json")
    out, err = process.communicate()
    assert process.returncode == 2
    assert len(err.strip().splitlines()) == 1
    assert "bad.onnx: not an ONNX model" in err
    found = {model["path"]: model["state"] for model in json.loads(out)["models"]}
    assert found.pop("onnx/bad.onnx") == "failed"
    assert set(found.values()) == {"compressed"}
    assert not (tmp_path / "out" / "onnx" / "bad.onnx").exists()
    assert (tmp_path / "out" / "config.json").exists()


def test_models_without_weights_are_copied(repository: Path, tmp_path: Path) -> None:
    """So is external data that only they need."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    m (float[N,8] x) => (float[N,8] y) { y = Add(x, c) }"""
    path = write(repository / "post.onnx", text, data="post.weights", c=(8,))
    shutil.copy(path, repository / "twice.onnx")
    report = compress_folder(repository, tmp_path / "out", EIGHT)
    (copied, _) = (model for model in report.models if model.state == "copied")
    assert copied.path == Path("post.onnx")
    assert "no weight to compress" in str(copied.reason)
    for name in ("post.onnx", "post.weights"):
        assert (tmp_path / "out" / name).read_bytes() == (repository / name).read_bytes()
    run(tmp_path / "out" / "post.onnx", x=normal(1, 8))
    again = compress_folder(tmp_path / "out", tmp_path / "again", EIGHT)
    assert set(states(again).values()) == {"copied"}
    assert report.bytes_before == sum(map(len, files(repository).values())) - len(
        (repository / ".git" / "HEAD").read_bytes()
    )


def test_names_that_transformers_js_looks_for(repository: Path, tmp_path: Path) -> None:
    write(repository / "onnx" / "encoder_model_fp16.onnx", HEAD, w=(48, 64))
    write(repository / "onnx" / "encoder_model_q4.onnx", HEAD, w=(48, 64))
    out = tmp_path / "out"
    report = compress_folder(repository, out, EIGHT, name="q4")
    names = {name for name in files(out) if name.startswith("onnx")}
    assert names == {
        "onnx/encoder_model_q4.onnx",
        "onnx/encoder_model_q4.onnx_data",
        "onnx/encoder_model_fp16.onnx",
        "onnx/decoder_model_merged_q4.onnx",
    }
    run(out / "onnx" / "encoder_model_q4.onnx", input_ids=np.zeros((1, 3), np.int64))
    assert states(report)["onnx/encoder_model_fp16.onnx"] == "copied"
    assert (out / "onnx" / "encoder_model_fp16.onnx").read_bytes() == (
        repository / "onnx" / "encoder_model_fp16.onnx"
    ).read_bytes()


def test_into_the_same_folder_with_a_name(repository: Path) -> None:
    before = files(repository)
    with pytest.raises(QqonnxError, match="would overwrite the models"):
        compress_folder(repository, repository, EIGHT)
    for state in ("compressed", "unchanged"):
        report = compress_folder(repository, repository, EIGHT, name="q8")
        assert set(states(report).values()) == {state}
        after = files(repository)
        assert {name: after[name] for name in before} == before
        assert {n for n in set(after) - set(before) if n != STATE_FILE} == {
            "onnx/encoder_model_quantized.onnx",
            "onnx/encoder_model_quantized.onnx_data",
            "onnx/decoder_model_merged_quantized.onnx",
            "vision/model_quantized.onnx",
        }


def test_data_that_two_models_share(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder / "a.onnx", HEAD, data="weights.bin", w=(48, 64))
    shutil.copy(folder / "a.onnx", folder / "b.onnx")
    out = tmp_path / "out"
    compress_folder(folder, out, EIGHT)
    assert "weights.bin" not in files(out)
    for name in ("a.onnx", "b.onnx"):
        (exact,), (other,) = (run(at / name, pixels=normal(2, 48)) for at in (folder, out))
        assert np.abs(exact - other).max() < 0.02 * np.abs(exact).max()


def test_rules(repository: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    np.savez(tmp_path / "images.npz", pixels=normal(40, 48))
    rules.write_text(
        """
        [[models]]
        files = "onnx/*"
        method = "kmeans"
        bits = 6
        skip = ["head"]
        [[models]]
        files = "encoder_model.onnx"
        method = "kmeans"
        bits = 3
        bits_for = { down = 5 }
        [[models]]
        files = "vision/*"
        target_bits = 5
        calibration = "images.npz"
        """
    )
    report = compress_folder(repository, tmp_path / "out", rules=rules)
    assert "vision/model.onnx" in states(report)
    bits = {
        weight.name: weight.bits
        for model in report.models
        for weight in (model.report.weights if model.report else ())
    }
    assert bits == bits | {"then_w": 6, "else_w": 6, "embedding": 3, "up": 3, "down": 5}
    assert "head" not in bits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = 3", "nothing but tables"),
        ("[[models]]\nbits = 4", "needs files"),
        ("[[models]]\nfiles = '*'\nbit = 4", "unknown key bit"),
        ("[[models]]\nfiles = '*'\nbits = '4'", "bits: '4' is not a whole number"),
        ("[[models]]\nfiles = '*'\nbits = true", "bits: True is not a whole number"),
        ("[[models]]\nfiles = '*'\nskip = [3]", "is not a list of strings"),
        ("[[models]]\nfiles = '*'\nbits_for = {a = 'x'}", "is not a table of whole numbers"),
        ("[[models]]\nfiles = 'nothing*'\nbits = 4", "no model has a name like nothing"),
        ("[[models]]\nfiles = '*'\nskip = ['no*']", "no weight of any model has a name like no"),
        ("[[models]]\nfiles = '*'\nbits = 9", "bits"),
        ("[[models]]\nfiles = '*'\nmax_drop = '1%'\ntarget_bits = 4", "more than one target"),
        ("[[models", "not TOML"),
    ],
)
def test_bad_rules(repository: Path, tmp_path: Path, text: str, message: str) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(text)
    with pytest.raises(QqonnxError, match=message.replace("[", r"\[")):
        compress_folder(repository, tmp_path / "out", rules=rules)
    assert not (tmp_path / "out").exists()


def test_patterns_of_weights_need_fit_one_model_only(repository: Path, tmp_path: Path) -> None:
    options = Options(bits=4, skip=("head",), bits_for={"embedding": 6})
    report = compress_folder(repository, tmp_path / "out", options)
    assert set(states(report).values()) == {"compressed"}
    with pytest.raises(OptionError, match="no weight of any model has a name like heads"):
        compress_folder(repository, tmp_path / "other", Options(skip=("heads",)))


def test_one_target_for_each_model(repository: Path, tmp_path: Path) -> None:
    calibration = Calibration(target=Target(ratio=3))
    report = compress_folder(repository, tmp_path / "out", calibration=calibration)
    for model in report.models:
        assert model.bytes_after is not None
        assert model.bytes_after <= model.bytes_before / 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "plan.json"], "--plan: is for one model"),
        (["--external-data"], "--external-data: is for one model"),
        (["--name", "q4f16"], "--name: must be one of q8, int8"),
        (["--name", "small"], "--name: must be one of q8, int8"),
    ],
)
def test_bad_options(repository: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    process = converting(repository, "-o", tmp_path / "out", *arguments)
    assert message in process.communicate()[1]
    assert process.returncode == 2
    assert not (tmp_path / "out").exists()


def test_bad_folders(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(QqonnxError, match="holds no ONNX file"):
        compress_folder(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(QqonnxError, match="not a folder"):
        compress_folder(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(QqonnxError, match="is a file"):
        compress_folder(repository, repository / "config.json")
    model = repository / "vision" / "model.onnx"
    for option in ("--name", "--options"):
        process = converting(model, "-o", tmp_path / "o.onnx", option, "q4")
        assert f"{option}: is for a folder" in process.communicate()[1]


def test_an_output_inside_the_folder_is_no_input(repository: Path) -> None:
    for _ in range(2):
        report = compress_folder(repository, repository / "small", EIGHT)
        assert len(report.models) == 3
    assert not (repository / "small" / "small").exists()


def test_links_of_a_hub_cache(repository: Path, tmp_path: Path) -> None:
    """A snapshot in a hub's cache has links to files named by their digests."""
    snapshot = tmp_path / "snapshots" / "abc"
    shutil.copytree(repository, snapshot)
    for number, path in enumerate(sorted(p for p in snapshot.rglob("*") if p.is_file())):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        path.replace(blob)
        path.symlink_to(blob)
    (snapshot / "bad.onnx").symlink_to(snapshot / "config.json")
    compress_folder(repository, tmp_path / "out", EIGHT)
    report = compress_folder(snapshot, tmp_path / "linked", EIGHT)
    (failed,) = report.failed
    assert str(failed.reason).startswith(str(snapshot / "bad.onnx"))
    assert files(tmp_path / "linked").keys() == files(tmp_path / "out").keys()
    assert not any(path.is_symlink() for path in (tmp_path / "linked").rglob("*"))
    onnx.checker.check_model(tmp_path / "linked" / "onnx" / "encoder_model.onnx")
    (tmp_path / "secret").write_text("s")
    (snapshot / "secret").symlink_to(tmp_path / "secret")
    with pytest.raises(QqonnxError, match="secret: a link out of the folder"):
        compress_folder(snapshot, tmp_path / "other", EIGHT)

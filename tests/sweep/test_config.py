"""The configuration of a sweep: sweep.toml, the grid, splits of the images, threads."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeping import ROOT, small_sweep

from qqonnx.codebooks import METHODS
from qqonnx.errors import QqonnxError
from qqonnx.inputs.dataset import Dataset, open_dataset
from qqonnx.parallel import available_cores
from qqonnx.sweep.baselines import BASELINES
from qqonnx.sweep.config import KEYS, TABLES, read_config, target_of
from qqonnx.sweep.execute import RunError, execute
from qqonnx.sweep.grid import Run, runs_of
from qqonnx.sweep.local import LocalPool
from qqonnx.sweep.sources import model_source
from qqonnx.sweep.splits import calibration_split, evaluation_split
from qqonnx.sweep.threads import inherited_threads, session_threads

EXAMPLE = ROOT / "examples" / "sweep.toml"
DOCS = ROOT / "docs" / "sweep.md"


def grid(config: Path) -> tuple[list[Run], list[str]]:
    read = read_config(config)
    models = [model_source(path) for path in read.models if isinstance(path, Path)]
    return runs_of(read, models, lambda _: False)


def test_the_example_is_every_method_at_every_bit_width() -> None:
    runs, skipped = grid(EXAMPLE)
    wanted = {
        (name, bits)
        for name, method in METHODS.items()
        for bits in range(max(method.min_bits, 1), min(method.max_bits, 8) + 1)
    }
    found = [(run.method, run.bits) for run in runs if not run.is_baseline]
    assert sorted(found) == sorted(wanted)
    own = [name for name, baseline in BASELINES.items() if baseline.package is None]
    assert [run.method for run in runs if run.is_baseline] == own
    # Messages name what is skipped: missing packages, and bit-widths that a method lacks.
    assert len(skipped) == len(BASELINES) - len(own) + 8 * len(METHODS) - len(wanted)
    assert len({run.key for run in runs}) == len(runs)


def test_the_documentation_names_every_key_and_baseline() -> None:
    text = DOCS.read_text("utf-8")
    keys = {*KEYS, *TABLES, *(key for table in TABLES.values() for key in table)}
    assert {"models", "budgets", "calibration", "finetune", "min_size"} <= keys
    assert not {key for key in keys if f"`{key}`" not in text and f"`[{key}]`" not in text}
    assert not {name for name in BASELINES if f"`{name}`" not in text}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = ['uq']", "unknown key method"),
        ("[calibration]\nsample = 3", "unknown key calibration.sample"),
        ("[options]\nbits = 3", "unknown key options.bits"),
        ("methods = ['uq', 'nope']", "methods: unknown method 'nope'; known: uq, "),
        ("methods = 'uq'", "methods: must be a list"),
        ("bits = [9]", "bits: is 1 to 8, not 9"),
        ("bits = [true]", "bits: True is not a whole number"),
        ("bits = ['4']", "bits: '4' is not a whole number"),
        ("granularities = ['row']", "granularities: unknown granularity 'row'; known: tensor, "),
        ("baselines = ['int7']", "baselines: unknown baseline 'int7'; known: float32, "),
        ("budgets = ['4.4']\n[calibration]\n", "budgets: '4.4 KiBs' is not a budget"),
        ("budgets = ['4.4 bits']", "budgets need a table [calibration] with data"),
        ("baselines = ['ort-qdq-tensor']", "baseline ort-qdq-tensor needs a table [calibration]"),
        ("samples = 0", "samples: is at least 1, not 0"),
        ("timings = -1", "timings: is at least 0, not -1"),
        ("calibration = 3", "calibration: must be a table, [calibration]"),
        ("bits = [", "not TOML: "),
    ],
)
def test_what_does_not_fit_is_one_line_with_its_name(
    tmp_path: Path, text: str, message: str
) -> None:
    if "KiBs" in message:
        text = text.replace("4.4", "4.4 KiBs")
    config = small_sweep(tmp_path, text)
    with pytest.raises(QqonnxError) as raised:
        read_config(config)
    assert str(raised.value).startswith(f"{config}: ")
    assert message in str(raised.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    config = small_sweep(tmp_path)
    for key, file in (("models", "small.onnx"), ("datasets", "images.npz")):
        text = config.read_text()
        config.write_text(text.replace(file, "none.onnx"))
        with pytest.raises(QqonnxError, match=r"none\.onnx"):
            grid(config)
        config.write_text(re.sub(rf"{key} = .*", f"{key} = []", text))
        with pytest.raises(QqonnxError, match=f"{key}: names none"):
            grid(config)
        config.write_text(text)
    with pytest.raises(QqonnxError, match="nncf is not installed"):
        grid(small_sweep(tmp_path, 'baselines = ["nncf-int8"]'))


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("4.4 bits", "bits", 4.4),
        ("2.5MB", "size", 2_500_000),
        ("8x", "ratio", 8),
        ("1%", "max_drop", 0.01),
    ],
)
def test_budgets(text: str, field: str, value: float) -> None:
    assert getattr(target_of(text), field) == value


def test_the_key_is_of_what_decides_the_result_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    text = 'methods = ["uq"]\nbits = [2]\nbudgets = ["5 bits"]\n[calibration]\ndata = "images.npz"'
    first, again = (grid(small_sweep(tmp_path / name, text))[0] for name in "ab")
    assert [run.key for run in first] == [run.key for run in again]
    run = next(run for run in first if run.method == "target")
    assert run.calibration is not None
    changed = [
        replace(run, model=replace(run.model, digest="0")),
        replace(run, dataset=replace(run.dataset, digest="0")),
        replace(run, samples=3),
        replace(run, reserved=1),
        replace(run, method="uq"),
        replace(run, bits=3),
        replace(run, budget="6 bits"),
        replace(run, granularity="scale"),
        replace(run, threads=2),
        replace(run, calibration=None),
        replace(run, calibration=replace(run.calibration, samples=3)),
        replace(run, calibration=replace(run.calibration, finetune=True)),
        replace(run, options=replace(run.options, min_size=1)),
    ]
    assert len({run.key, *(other.key for other in changed)}) == len(changed) + 1


@given(st.integers(2, 60), st.integers(0, 59), st.none() | st.integers(1, 80))
def test_the_splits_are_disjoint(count: int, reserved: int, samples: int | None) -> None:
    reserved = min(reserved, count - 1)
    items = tuple(np.full((2, 2, 3), number, np.uint8) for number in range(count))
    dataset = Dataset(Path("x.npz"), items, np.arange(count))
    evaluation = evaluation_split(dataset, reserved, samples).labels
    assert evaluation is not None
    assert len(evaluation) == min(count - reserved, samples or count)
    calibration = np.empty(0)
    if reserved:
        with calibration_split(dataset, reserved) as path:
            calibration = np.load(path)["labels"]
    assert len(calibration) == reserved
    assert len({*evaluation.tolist(), *calibration.tolist()}) == len(evaluation) + reserved


def test_splits_of_a_folder_are_files(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(6):
        folder = tmp_path / "data" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    dataset = open_dataset(tmp_path / "data", labels_required=False)
    assert dataset.labels is not None
    with calibration_split(dataset, 2) as path:
        reds = [Image.open(file).getpixel((0, 0))[0] for file in sorted(path.iterdir())]
    kept = evaluation_split(dataset, 2, None).items
    reds += [Image.open(item).getpixel((0, 0))[0] for item in kept]
    assert sorted(reds) == list(range(6))
    assert open_dataset(tmp_path / "data" / "class0", labels_required=False).labels is None
    with pytest.raises(QqonnxError, match="holds no images in class folders"):
        open_dataset(tmp_path / "data" / "class0")


def test_without_labels_there_is_agreement_and_no_accuracy(tmp_path: Path) -> None:
    config = small_sweep(tmp_path, 'methods = ["uq"]\nbits = [8]\nbaselines = []\n')
    images = np.load(tmp_path / "images.npz")["images"]
    labelled = execute(grid(config)[0][0], tmp_path / "a.onnx")
    np.savez(tmp_path / "images.npz", images=images)
    row = execute(grid(config)[0][0], tmp_path / "b.onnx")
    assert (row["top1"], row["top5"]) == (None, None)
    assert labelled["top1"] is not None
    for name in ("agreement", "kl", "samples", "file_sha256"):
        assert row[name] == labelled[name]


def test_errors_name_the_run_not_its_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_sweep(tmp_path, 'methods = ["uq"]\nbits = [2]\n')
    float32, uq = grid(config)[0]
    broken = replace(BASELINES["float32"], module=__name__, function="writes_rubbish")
    monkeypatch.setitem(BASELINES, "float32", broken)
    with pytest.raises(QqonnxError, match="^its model: "):
        execute(float32, tmp_path / "x.onnx")
    monkeypatch.setitem(BASELINES, "float32", replace(broken, function="fails"))
    with pytest.raises(RunError, match="^ZeroDivisionError: one$"):
        execute(float32, tmp_path / "x.onnx")


def writes_rubbish(request: object) -> dict[str, str]:
    request.target.write_text("rubbish")
    return {}


def fails(request: object) -> dict[str, str]:
    raise ZeroDivisionError("one\ntwo")


def test_threads_are_bounded_where_nobody_says_so() -> None:
    plain = ort.SessionOptions
    with session_threads(3):
        options = ort.SessionOptions()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert ort.SessionOptions is plain
    before = dict(os.environ)
    with inherited_threads(3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "3"
    assert dict(os.environ) == before


def test_a_whole_run_opens_no_session_beyond_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        'methods = ["uq"]\nbits = [2]\nbaselines = "all"\nbudgets = ["5 bits"]\nthreads = 1\n'
        '[calibration]\ndata = "split"\nsamples = 8\n'
    )
    opened = []
    session = ort.InferenceSession

    def counted(path: object, options: ort.SessionOptions | None = None, **rest: object) -> object:
        options = rest.get("sess_options", options)
        opened.append(options.intra_op_num_threads if options is not None else 0)
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", counted)
    for number, run in enumerate(grid(small_sweep(tmp_path, text))[0]):
        opened.clear()
        execute(run, tmp_path / f"{number}.onnx")
        assert opened
        assert set(opened) == {1}, run.label


def test_forms_of_execution_are_runs_of_their_own(tmp_path: Path) -> None:
    text = (
        'methods = ["uq", "auto"]\nbits = [4]\nbudgets = ["5 bits"]\nbaselines = []\n'
        'compute = ["float", "int8-dynamic"]\n[calibration]\ndata = "split"\nsamples = 8\n'
    )
    runs = grid(small_sweep(tmp_path, text))[0]
    assert [(run.method, run.options.compute) for run in runs] == [
        ("uq", "float"),
        ("auto", "float"),
        ("auto", "int8-dynamic"),
        ("target", "float"),
        ("target", "int8-dynamic"),
    ]
    assert len({run.key for run in runs}) == len(runs)
    assert '"compute": "int8-dynamic"' in runs[-1].row()["options"]
    execute(runs[-1], tmp_path / "small.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node}
    assert "MatMulInteger" in operators


def test_a_pool_is_no_larger_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qqonnx.sweep import sweep as module

    sizes = []

    class Pool(LocalPool):
        def __init__(self, workers: int, threads: int) -> None:
            sizes.append(workers)
            super().__init__(workers, threads)

    monkeypatch.setattr(module, "LocalPool", Pool)
    config = replace(read_config(small_sweep(tmp_path, "timings = 0\n")), methods=(), baselines=())
    cores = available_cores()
    for threads, workers in ((1, None), (1, 10_000), (cores, None), (10_000, None), (1, 1)):
        module.sweep(replace(config, threads=threads), workers=workers)
    assert sizes == [cores, cores, 1, 1, 1]

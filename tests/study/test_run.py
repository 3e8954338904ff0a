"""The study from end to end on little data; only some tests need PyTorch."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from qqonnx.cache import cache_folder
from qqonnx.codebooks import METHODS, assign, fit
from qqonnx.errors import QqonnxError
from qqonnx.study import jobs as jobs_module
from qqonnx.study import reference, run, sources
from qqonnx.study.ablations import measure_tails
from qqonnx.study.claims import claims
from qqonnx.study.distributions import draw
from qqonnx.study.jobs import Measurement, run_jobs
from qqonnx.study.layers import measure_layer
from qqonnx.study.models import StudyModel
from qqonnx.study.networks import measure_network
from qqonnx.study.results import Results, read_results
from qqonnx.study.run import QUICK, run_study
from qqonnx.study.schemes import KMEANS, QQ, UQ
from qqonnx.study.simulation import open_simulation, quantized
from qqonnx.study.small import bundled_network
from qqonnx.study.sources import Sources

ROOT = Path(__file__).parents[2]

TINY = replace(
    QUICK,
    count=2000,
    small_bits=(2,),
    core_bits=(2, 8),
    other_bits=(2,),
    layer_bits=(1, 2),
    layer_step=27,
    tails_bits=(2, 4),
    exponent_bits=(3,),
    alphas=(0.0, 0.5, 1.0),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder("study") == tmp_path / "cache" / "qqonnx" / "study"
    return cache_folder("study")


@pytest.fixture
def bundled() -> StudyModel:
    actual = bundled_network(ROOT)
    assert actual is not None
    return actual


def count_runs(folder: Path, name: str) -> dict[str, int]:
    """Record in a file how often this ran."""
    if name == "bad":
        raise QqonnxError("a bad job")
    file = folder / name
    runs = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(runs))
    return {"runs": runs}


def counting_jobs(folder: Path, *names: str) -> list[Measurement]:
    return [Measurement(count_runs, (folder, name), 1.0) for name in names]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_from_the_cache(tmp_path: Path, workers: int) -> None:
    wanted = counting_jobs(tmp_path, "a", "b", "c")
    calls: list[tuple[str, float, float]] = []
    for fresh, runs in ((False, 1), (False, 1), (True, 2)):
        actual = run_jobs(
            "stage", wanted, workers=workers, fresh=fresh, progress=lambda *call: calls.append(call)
        )
        assert actual == [{"runs": runs}] * 3
    assert calls == [("stage", 0, 3.0), *[("stage", 1.0, 3.0)] * 3] * 3


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(QqonnxError, match="a bad job"):
        run_jobs("stage", counting_jobs(tmp_path, "a", "bad", "b"), workers=1)
    assert run_jobs("stage", counting_jobs(tmp_path, "a", "b"), workers=1) == [{"runs": 1}] * 2


def test_another_version_measures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = counting_jobs(tmp_path, "a")
    run_jobs("stage", jobs, workers=1)
    monkeypatch.setattr(jobs_module, "__version__", "99")
    assert run_jobs("stage", jobs, workers=1) == [{"runs": 2}]


def test_distributions_have_unit_deviation_and_a_seed() -> None:
    for entry in run.DISTRIBUTIONS:
        values = draw(entry.key, 3000)
        assert values.std() == pytest.approx(1)
        np.testing.assert_array_equal(values, draw(entry.key, 3000))


def test_a_simulation_changes_only_the_replaced_weights(bundled: StudyModel) -> None:
    simulation = open_simulation(bundled)
    images = simulation.images[:8]
    exact = simulation.outputs(images, {})
    np.testing.assert_array_equal(exact, simulation.outputs(images, dict(simulation.weights)))
    name = "classifier.3.weight"
    none = simulation.outputs(images, {name: np.zeros_like(simulation.weights[name])})
    bias = simulation.weights["classifier.3.bias"]
    np.testing.assert_allclose(none, np.tile(bias, (8, 1)), atol=1e-5)
    # The first layer's input is the image, so its second moments can be computed directly.
    assert simulation.second_moments[name].shape == simulation.weights[name].shape
    assert all((moment >= 0).all() for moment in simulation.second_moments.values())
    first = simulation.second_moments["features.0.0.weight"]
    expected = np.square(simulation.calibration.astype(np.float64)).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(first[0, :, 0, 0], expected)


def test_second_moments_weight_errors_as_the_outputs_feel_them(bundled: StudyModel) -> None:
    # For independent errors, the mean square change of a layer's outputs is the sum of squared
    # errors times second moments; the last layer's outputs are the network's.
    simulation = open_simulation(bundled)
    name = "classifier.3.weight"
    rng = np.random.default_rng(0)
    changes = []
    for _ in range(8):
        error = rng.normal(0, 1e-2, simulation.weights[name].shape).astype(np.float32)
        changed = simulation.outputs(
            simulation.calibration, {name: simulation.weights[name] + error}
        )
        felt = float(np.square(changed - simulation.calibration_reference).mean(axis=0).sum())
        predicted = float(
            (np.square(error.astype(np.float64)) * simulation.second_moments[name]).sum()
        )
        changes.append(felt / predicted)
    assert np.mean(changes) == pytest.approx(1, abs=0.2)


def test_a_compressed_network_is_the_simulation_with_decoded_weights(bundled: StudyModel) -> None:
    row = measure_network(bundled, QQ, 3)
    assert row["stored"] == pytest.approx(3, abs=0.01)
    assert 0.9 < row["compressed"] <= 1
    simulation = open_simulation(bundled)
    changed = quantized(simulation, "qq", 8)
    weights = [name for name in changed if simulation.weights[name].size > 2000]
    error = sum(float(np.square(simulation.weights[n] - changed[n]).sum()) for n in weights)
    signal = sum(float(np.square(simulation.weights[n]).sum()) for n in weights)
    assert row["noise"] == pytest.approx(error / signal, rel=0.05)
    exact = measure_network(bundled, None, 32)
    assert exact["kl"] == 0
    assert exact["agreement"] == 1
    assert exact["top1"] == pytest.approx(359 / 360, abs=2 / 360)


def test_measurements_of_layers_and_tails(bundled: StudyModel) -> None:
    simulation = open_simulation(bundled)
    name = "classifier.3.weight"
    weight = simulation.weights[name]
    uniform, best = measure_layer(bundled, name, (UQ, KMEANS), (2,))
    assert best["l2"] < uniform["l2"]
    assert best["sqnr"] == pytest.approx(
        10 * np.log10(np.square(weight.astype(np.float64)).mean() / best["l2"])
    )
    [tails] = measure_tails(bundled, 3, "qq")
    # Two of eight bins of equal mass.
    assert tails["values"] == pytest.approx(0.25, abs=0.01)
    assert tails["squared"] > 0.5
    assert tails["kl_inner"] < tails["kl_all"]


@pytest.mark.slow
def test_the_study_runs_without_pytorch_and_writes_one_page(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, 'tests/study')\n"
        "from qqonnx.study.page import write_report\n"
        "from test_run import TINY, Sources, run_study\n"
        "results = run_study(TINY, Sources(), workers=1)\n"
        f"write_report(results, Path({str(tmp_path / 'first')!r}))\n"
        "again = run_study(TINY, Sources(), workers=1)\n"
        "assert again == results\n"
        "assert 'torch' not in sys.modules\n"
        f"write_report(again, Path({str(tmp_path / 'second')!r}))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    page = (tmp_path / "first" / "report.html").read_text("utf-8")
    assert page == (tmp_path / "second" / "report.html").read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.count("<img") == len(list((tmp_path / "first" / "figures").glob("*.png"))) >= 10
    for file in (tmp_path / "first" / "figures").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / "figures" / file.name).read_bytes()
    for claim in claims(read_results(tmp_path / "first" / "study.json")):
        assert f"{claim.verdict}</td>" in page
        assert claim.statement in html.unescape(page)


@pytest.fixture(scope="module")
def without_bundled(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return run_study(TINY, Sources(checkout=folder), workers=1)


def test_a_run_without_a_bundled_model_says_so(without_bundled: Results) -> None:
    results = without_bundled
    assert results.network_names() == []
    assert "only a source checkout" in results.setting["networks"]
    assert results.float_accuracy("small") >= 0.97
    by_key = {claim.key: claim for claim in claims(results)}
    assert by_key["predictor"].verdict == "not measured"
    assert by_key["entropy"].number.endswith(" cases")
    # The rows agree with a fit.
    values = draw("normal", TINY.count)
    book = fit(values, "qq", 8)
    error = np.abs(values - book.levels[assign(values, book)]).mean()
    assert results.losses("normal", "qq", "l1")[3] == pytest.approx(error)
    assert {row["scheme"] for row in results.distributions} <= set(METHODS)


def test_the_docs_page_has_a_place_for_every_section(without_bundled: Results) -> None:
    spec = importlib.util.spec_from_file_location("study_docs", ROOT / "tools" / "study_docs.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (ROOT / "docs" / "study.md").read_text("utf-8")
    sections = tool.sections(without_bundled)
    for name, content in sections.items():
        page = tool.replaced(page, name, content)
        assert f"<!-- {name} -->\n{content}\n<!-- end of {name} -->" in page
    for claim in claims(without_bundled):
        assert f"| {claim.statement} | **{claim.verdict}** |" in page
    # Writing a section twice changes nothing.
    assert page == tool.replaced(page, "claims", sections["claims"])
    with pytest.raises(SystemExit, match="markers of other are missing"):
        tool.replaced(page, "other", "")


@pytest.mark.slow
@pytest.mark.torch
def test_reference_models_are_trained_once_and_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    recipe = replace(reference.RECIPES["mobilenet_v3_small"], epochs=1)
    monkeypatch.setitem(reference.RECIPES, "mobilenet_v3_small", recipe)
    images = sources.reference_images(None)
    models = [
        sources.reference_models(images, ["mobilenet_v3_small"], tmp_path / folder)[0]
        for folder in ("a", "b")
    ]
    assert models[0].path.read_bytes() == models[1].path.read_bytes()
    before = models[0].path.stat().st_mtime_ns
    again = sources.reference_models(images, ["mobilenet_v3_small"], tmp_path / "a")[0]
    assert again.path.stat().st_mtime_ns == before
    row = measure_network(models[0], KMEANS, 4)
    assert row["images"] == len(images.held_out.labels)


@pytest.mark.slow
@pytest.mark.torch
def test_pretrained_networks_run_on_a_folder_of_imagenet_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("n01440764", "n02102040"):
            (tmp_path / part / name).mkdir(parents=True)
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            image_module.fromarray(pixels).save(tmp_path / part / name / "0.png")
    monkeypatch.setattr(
        sources, "RECIPES", {"mobilenet_v3_small": reference.RECIPES["mobilenet_v3_small"]}
    )
    extent = replace(
        TINY, layer_models=(), simulated_models=("mobilenet_v3_small",), core_bits=(8,)
    )
    results = run_study(extent, Sources(imagenette=tmp_path, weights="none"), workers=1)
    assert results.network_names() == ["mobilenet_v3_small"]
    row = next(r for r in results.networks if r["model"] != "small" and r["scheme"] == "kmeans")
    assert row["images"] == 2
    assert results.tails
    (tmp_path / "weights").mkdir()
    with pytest.raises(QqonnxError, match=r"neither mobilenet_v3_small.pth nor"):
        run_study(
            extent, Sources(imagenette=tmp_path, weights=str(tmp_path / "weights")), workers=1
        )
    with pytest.raises(QqonnxError, match="no folders train and val"):
        run_study(extent, Sources(imagenette=tmp_path / "weights"), workers=1)

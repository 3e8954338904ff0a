"""The whole study: models, measurements, results. Read it first."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from qqonnx.study.ablations import ALPHAS, measure_exponent, measure_tails
from qqonnx.study.data import digits, mnist
from qqonnx.study.distributions import DISTRIBUTIONS, measure_distribution
from qqonnx.study.jobs import Measurement, Progress, run_jobs
from qqonnx.study.layers import layer_jobs
from qqonnx.study.networks import IMAGES, network_jobs
from qqonnx.study.reference import IMAGE_SIZE
from qqonnx.study.results import Results, Row
from qqonnx.study.schemes import BITS, KMEANS, PWLQ, QQ, UNIQ, UQ, Scheme
from qqonnx.study.small import small_network
from qqonnx.study.sources import Sources, networks
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qqonnx.study.models import StudyModel


@dataclass(frozen=True)
class Extent:
    """The extent of the study.

    Attributes:
        name: the name on the page.
        bundled_only: whether the bundled model replaces the reference models.
        count: the number of values from each distribution.
        small_bits: bit-widths of all schemes on the small network.
        core_bits: bit-widths of the paper's schemes and k-means on the other networks.
        other_bits: bit-widths of the other schemes on the other networks.
        layer_models: names of the networks whose weights are quantized one at a time.
        layer_schemes: schemes for single weights.
        layer_bits: bit-widths for single weights.
        layer_step: only every n-th weight is quantized.
        simulated_models: names of the networks for tails and exponents.
        tails_bits: bit-widths for tails.
        exponent_bits: bit-widths for exponents.
        alphas: the exponents.
    """

    name: str
    bundled_only: bool
    count: int
    small_bits: tuple[int, ...]
    core_bits: tuple[int, ...]
    other_bits: tuple[int, ...]
    layer_schemes: tuple[Scheme, ...]
    layer_bits: tuple[int, ...]
    layer_step: int
    layer_models: tuple[str, ...]
    simulated_models: tuple[str, ...]
    tails_bits: tuple[int, ...]
    exponent_bits: tuple[int, ...]
    alphas: tuple[float, ...]


FULL = Extent(
    name="full",
    bundled_only=False,
    count=200_000,
    small_bits=BITS,
    core_bits=BITS,
    other_bits=BITS,
    layer_schemes=(UQ, PWLQ, QQ, UNIQ, KMEANS),
    layer_bits=(1, 2, 3, 4, 5, 6),
    layer_step=1,
    layer_models=("mobilenet_v3_small", "resnet18"),
    simulated_models=("mobilenet_v3_small", "resnet18", "googlenet"),
    tails_bits=(2, 3, 4, 5, 6),
    exponent_bits=(2, 3, 4, 5),
    alphas=ALPHAS,
)

QUICK = Extent(
    name="quick",
    bundled_only=True,
    count=20_000,
    small_bits=BITS,
    core_bits=(1, 2, 3, 4, 5, 6, 8),
    other_bits=(2, 3, 4, 5),
    layer_schemes=(UQ, PWLQ, QQ, KMEANS),
    layer_bits=(1, 2, 4),
    layer_step=5,
    layer_models=("bundled",),
    simulated_models=("bundled",),
    tails_bits=(2, 3, 4, 5),
    exponent_bits=(3, 4),
    alphas=ALPHAS[::2],
)


def run_study(
    extent: Extent,
    sources: Sources,
    *,
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress = lambda *_: None,
) -> Results:
    """Train or load the networks and run all measurements.

    Args:
        extent: the extent of the study.
        sources: the sources of images and weights.
        workers: the number of processes, by default the number of cores.
        fresh: whether to ignore cached results.
        progress: called after each job.

    Raises:
        QqonnxError: a package of the extra `study`, images or weights are missing.
    """
    workers = workers or os.cpu_count() or 1

    def run(stage: str, jobs: Sequence[Measurement]) -> list[Any]:
        return run_jobs(stage, jobs, workers=workers, fresh=fresh, progress=progress)

    small = small_network(mnist(sources.mnist) if sources.mnist else digits())
    models = networks(sources, bundled_only=extent.bundled_only, workers=workers, progress=progress)
    simulated = [model for model in models if model.name in extent.simulated_models]
    cost = {model: model.path.stat().st_size + 6e6 for model in simulated}
    distribution_jobs = [
        Measurement(measure_distribution, (distribution.key, extent.count), 100.0 * extent.count)
        for distribution in DISTRIBUTIONS
    ]
    accuracy_jobs = network_jobs(small, extent.small_bits, extent.small_bits)
    for model in models:
        accuracy_jobs += network_jobs(model, extent.core_bits, extent.other_bits)
    weight_jobs = [
        job
        for model in models
        if model.name in extent.layer_models
        for job in layer_jobs(model, extent.layer_schemes, extent.layer_bits)[:: extent.layer_step]
    ]
    tails_jobs = [
        Measurement(measure_tails, (model, bits, method), 1.5 * cost[model])
        for model in simulated
        for bits in extent.tails_bits
        for method in (QQ.method, KMEANS.method)
    ]
    exponent_jobs = [
        Measurement(measure_exponent, (model, bits, alpha), cost[model])
        for model in simulated
        for bits in extent.exponent_bits
        for alpha in extent.alphas
    ]
    return Results(
        extent=extent.name,
        setting=_setting(extent, sources, models, small),
        distributions=_flat(run("distributions", distribution_jobs)),
        networks=run("networks", accuracy_jobs),
        layers=_flat(run("single weights", weight_jobs)),
        tails=_flat(run("tails", tails_jobs)),
        exponents=_flat(run("exponents", exponent_jobs)),
    )


def _flat(results: list[list[Row]]) -> list[Row]:
    return [row for rows in results for row in rows]


def _setting(
    extent: Extent, sources: Sources, models: list[StudyModel], small: StudyModel
) -> dict[str, str]:
    plain = ("numpy", "onnx", "onnxruntime", "torch", "torchvision")
    packages = {**{name: name for name in plain}, "scikit-learn": "sklearn"}
    # A run needs only some of the packages.
    versions = [f"{name} {version(name)}" for name, module in packages.items() if find_spec(module)]
    if sources.imagenette is not None:
        trained = f"torchvision's weights {sources.weights}, images of {sources.imagenette.name}"
    elif not models:
        trained = "none: only a source checkout has the bundled model"
    elif models[0].name == "bundled":
        trained = "the bundled MobileNetV3-Small, trained on scikit-learn's digits"
    else:
        trained = f"trained here on {models[0].data}, {IMAGE_SIZE} × {IMAGE_SIZE} pixels"
    return {
        "extent": extent.name,
        "networks": trained,
        "small network": f"two hidden layers, trained here on {small.data}",
        "images": f"at most {IMAGES:,} held-out images per accuracy",
        "distributions": f"{extent.count:,} values each, scaled to standard deviation 1",
        "packages": f"qqonnx {__version__}, {', '.join(versions)}",
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }

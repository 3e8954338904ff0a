"""The whole study: models, measurements, results."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from qqonnx.study.data import digits, mnist
from qqonnx.study.distributions import DISTRIBUTIONS, DistributionJob
from qqonnx.study.exponent import ALPHAS, AlphaJob
from qqonnx.study.jobs import Job, run_jobs
from qqonnx.study.layers import LayerJob, TailsJob, layer_jobs
from qqonnx.study.networks import FLOAT_BITS, IMAGES, NetworkJob
from qqonnx.study.probe import model_weights
from qqonnx.study.reference import IMAGE_SIZE
from qqonnx.study.results import Results, Row
from qqonnx.study.schemes import ALL, BITS, KMEANS, PAPER, PWLQ, QQ, UNIQ, UQ, Scheme
from qqonnx.study.small import small_network
from qqonnx.study.sources import Progress, Sources, networks
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qqonnx.study.models import StudyModel

_CORE = (*PAPER, KMEANS)


@dataclass(frozen=True)
class Extent:
    """How much of the study is run.

    Attributes:
        name: for the report.
        bundled_only: the bundled model instead of those that are trained.
        count: values drawn from each distribution.
        small_bits: bit-widths of the small network.
        core_bits: bit-widths of the paper's schemes and k-means on the other networks.
        other_bits: bit-widths of the other schemes on them.
        layer_schemes: schemes that single weights are quantized by.
        layer_bits: at these bit-widths.
        layer_step: every n-th weight.
        layer_models: networks whose single weights are quantized, by name.
        probe_models: networks whose tails and exponents are looked at.
        tails_bits: bit-widths for tails.
        alpha_bits: bit-widths for exponents.
        alphas: exponents tried.
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
    probe_models: tuple[str, ...]
    tails_bits: tuple[int, ...]
    alpha_bits: tuple[int, ...]
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
    probe_models=("mobilenet_v3_small", "resnet18", "googlenet"),
    tails_bits=(2, 3, 4, 5, 6),
    alpha_bits=(2, 3, 4, 5),
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
    probe_models=("bundled",),
    tails_bits=(2, 3, 4, 5),
    alpha_bits=(3, 4),
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
    """Train or load the networks and measure everything.

    Args:
        extent: how much.
        sources: on what.
        workers: processes; by default as many as there are cores.
        fresh: measure again what the cache holds.
        progress: called with what is going on, the cost just done and the cost in all.

    Raises:
        QqonnxError: a package of the extra `study`, images or weights are missing.
    """
    workers = workers or os.cpu_count() or 1

    def run(what: str, jobs: Sequence[Job]) -> list[Row]:
        total = sum(job.cost for job in jobs)
        progress(what, 0, total)
        return run_jobs(
            jobs, workers=workers, fresh=fresh, progress=lambda cost: progress(what, cost, total)
        )

    small = small_network(mnist(sources.mnist) if sources.mnist else digits())
    found = networks(sources, bundled_only=extent.bundled_only, workers=workers, progress=progress)
    drawn = run("distributions", [DistributionJob(d.key, extent.count) for d in DISTRIBUTIONS])
    network_jobs = [*_network_jobs(small, extent.small_bits, extent.small_bits)]
    for model in found:
        network_jobs += _network_jobs(model, extent.core_bits, extent.other_bits)
    network_rows = run("networks", network_jobs)
    weight_jobs = [
        job
        for model in found
        if model.name in extent.layer_models
        for job in _layer_jobs(model, extent)
    ]
    layer_rows = run("single weights", weight_jobs)
    probed = [model for model in found if model.name in extent.probe_models]
    tails_jobs = [
        TailsJob(model, bits, method)
        for model in probed
        for bits in extent.tails_bits
        for method in (QQ.method, KMEANS.method)
    ]
    tails_rows = run("tails", tails_jobs)
    alpha_jobs = [
        AlphaJob(model, bits, alpha)
        for model in probed
        for bits in extent.alpha_bits
        for alpha in extent.alphas
    ]
    alpha_rows = run("exponents", alpha_jobs)
    return Results(
        extent=extent.name,
        setting=_setting(extent, sources, found, small),
        distributions=[row for result in drawn for row in result["rows"]],
        networks=[_named(job, row) for job, row in zip(network_jobs, network_rows, strict=True)],
        layers=[
            {"model": job.model.name, "weight": job.weight, "size": job.size, **row}
            for job, result in zip(weight_jobs, layer_rows, strict=True)
            for row in result["rows"]
        ],
        tails=[
            {"model": job.model.name, "method": job.method, "bits": job.bits, **row}
            for job, row in zip(tails_jobs, tails_rows, strict=True)
        ],
        exponents=[
            {"model": job.model.name, "bits": job.bits, "alpha": job.alpha, **row}
            for job, row in zip(alpha_jobs, alpha_rows, strict=True)
        ],
    )


def _network_jobs(
    model: StudyModel, core_bits: tuple[int, ...], other_bits: tuple[int, ...]
) -> list[NetworkJob]:
    jobs = [NetworkJob(model, None, FLOAT_BITS)]
    for scheme in ALL:
        for bits in core_bits if scheme in _CORE else other_bits:
            if scheme.levels_at(bits) is not None:
                jobs.append(NetworkJob(model, scheme, bits))  # noqa: PERF401 - clearer so
    return jobs


def _layer_jobs(model: StudyModel, extent: Extent) -> list[LayerJob]:
    sizes = {name: weight.size for name, weight in model_weights(model.path).items()}
    jobs = layer_jobs(model, sizes, extent.layer_schemes, extent.layer_bits)
    return jobs[:: extent.layer_step]


def _named(job: NetworkJob, row: Row) -> Row:
    return {
        "model": job.model.name,
        "label": job.model.label,
        "data": job.model.data,
        "scheme": job.scheme.key if job.scheme else None,
        **row,
        "stored": row.get("bits"),
        "bits": job.bits,
    }


def _setting(
    extent: Extent, sources: Sources, found: list[StudyModel], small: StudyModel
) -> dict[str, str]:
    plain = ("numpy", "onnx", "onnxruntime", "torch", "torchvision")
    packages = {**{name: name for name in plain}, "scikit-learn": "sklearn"}
    # Not every run needs them all.
    versions = [f"{name} {version(name)}" for name, module in packages.items() if find_spec(module)]
    if sources.imagenette is not None:
        trained = f"torchvision's weights {sources.weights}, images of {sources.imagenette.name}"
    elif not found:
        trained = "none: the bundled model comes with a source checkout only"
    elif found[0].name == "bundled":
        trained = "the bundled MobileNetV3-Small, trained on scikit-learn's digits"
    else:
        trained = f"trained here on {found[0].data}, {IMAGE_SIZE} × {IMAGE_SIZE} pixels"
    return {
        "extent": extent.name,
        "networks": trained,
        "small network": f"two hidden layers, trained here on {small.data}",
        "images": f"at most {IMAGES:,} held-out images for each accuracy",
        "distributions": f"{extent.count:,} values each, in units of their standard deviation",
        "packages": f"qqonnx {__version__}, {', '.join(versions)}",
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }

"""The runs of a configuration, each with a key of everything that determines its result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from qqonnx.codebooks import method_named
from qqonnx.config import AUTO, PLAIN_METHOD
from qqonnx.errors import QqonnxError
from qqonnx.sweep.baselines import BASELINES
from qqonnx.sweep.config import SPLIT, SYNTHETIC
from qqonnx.sweep.sources import Source, metric_source, source_of
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qqonnx.config import Granularity, Options
    from qqonnx.sweep.config import SweepConfig

TARGET = "target"
"""Method of the runs that are calibrated to a budget."""


@dataclass(frozen=True)
class CalibrationSource:
    """Calibration inputs.

    Attributes:
        data: a file or folder; None for synthetic inputs or the calibration split.
        samples: largest number of samples.
        split: whether they are the calibration split of the data set.
        finetune: whether stored values are tuned end to end afterwards.
    """

    data: Source | None
    samples: int
    split: bool
    finetune: bool


@dataclass(frozen=True)
class Run:
    """One way to store one model, evaluated on one data set.

    Attributes:
        model: the float model.
        dataset: the samples for evaluation, and for calibration on a split of images.
        samples: largest number of evaluation samples; None for all.
        reserved: number of images in the calibration split.
        options: selection of weights, for codebook methods and `TARGET`.
        threads: threads of the run.
        method: a codebook method, a baseline, or `TARGET`.
        bits: bits per weight; None for floats and `TARGET`.
        budget: budget of a `TARGET` run.
        granularity: granularity of a codebook method.
        calibration: calibration inputs of a `TARGET` run or a calibrated baseline.
        metrics: metrics of the user.
    """

    model: Source
    dataset: Source
    samples: int | None
    reserved: int
    options: Options
    threads: int
    method: str
    bits: int | None = None
    budget: str | None = None
    granularity: Granularity | None = None
    calibration: CalibrationSource | None = None
    metrics: tuple[Source, ...] = ()

    @property
    def folders(self) -> set[Path]:
        """Folders of the functions' modules."""
        calibration = self.calibration.data if self.calibration is not None else None
        sources = (self.dataset, calibration, *self.metrics)
        return {s.path for s in sources if s is not None and s.function is not None}

    @property
    def is_baseline(self) -> bool:
        """Whether the method is a baseline."""
        return self.method in BASELINES

    @property
    def label(self) -> str:
        """Name of the run in messages."""
        width = None if self.bits is None else f"{self.bits} bits"
        compute = None if self.options.compute == "float" else self.options.compute
        parts = (self.model.name, self.dataset.name, self.method, self.granularity, compute)
        return ", ".join(part for part in (*parts, width, self.budget) if part is not None)

    @property
    def key(self) -> str:
        """SHA-256 of everything that determines the result."""
        text = json.dumps(
            {
                "qqonnx": __version__,
                "model": self.model.digest,
                "dataset": self.dataset.digest,
                "samples": self.samples,
                "method": self.method,
                "bits": self.bits,
                "budget": self.budget,
                "granularity": self.granularity,
                "options": self.described_options(),
            },
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def described_options(self) -> dict[str, Any]:
        """Return the settings without a column of their own, for the column `options`."""
        # "apart" is part of the results schema.
        options: dict[str, Any] = {"threads": self.threads, "apart": self.reserved}
        if not self.is_baseline:
            names = ("skip", "include_bias", "min_size")
            options |= {name: getattr(self.options, name) for name in names}
            if self.options.compute != "float":
                options["compute"] = self.options.compute
        if self.calibration is not None:
            options["calibration"] = asdict(self.calibration)
            # The content of a file matters, not its location.
            if self.calibration.data is not None:
                options["calibration"]["data"] = self.calibration.data.digest
        if self.metrics:
            options["metrics"] = {metric.name: metric.digest for metric in self.metrics}
        return options

    def row(self) -> dict[str, Any]:
        """Return the columns of the results that are known before the run."""
        return {
            "key": self.key,
            "model": self.model.name,
            "model_sha256": self.model.digest,
            "dataset": self.dataset.name,
            "method": self.method,
            "baseline": int(self.is_baseline),
            "bits": self.bits,
            "budget": self.budget,
            "granularity": self.granularity,
            "options": json.dumps(self.described_options(), sort_keys=True),
        }


def runs_of(
    config: SweepConfig,
    models: list[Source],
    installed: Callable[[str], bool],
) -> tuple[list[Run], list[str]]:
    """Return the runs of a grid, and a message for each combination that is left out.

    Args:
        config: the configuration.
        models: the files of its models.
        installed: returns whether the workers have a package.

    Raises:
        QqonnxError: a path does not exist, or a baseline that is listed by name cannot run.
    """
    folder = config.path.resolve().parent
    datasets = [source_of(data, folder) for data in config.datasets]
    metrics = tuple(metric_source(name, folder) for name in config.metrics)
    calibration = None
    if config.calibration is not None:
        data = config.calibration.data
        calibration = CalibrationSource(
            None if data in (SPLIT, SYNTHETIC) else source_of(data, folder),
            config.calibration.samples,
            data == SPLIT,
            config.calibration.finetune,
        )
    baselines, without_baselines = _baselines(config, installed)
    codebooks, without_codebooks = _codebooks(config)
    variants: list[dict[str, Any]] = [
        {"method": b, "bits": n, "calibration": calibration if BASELINES[b].calibrated else None}
        for b, n in baselines
    ]
    forms = [replace(config.options, compute=compute) for compute in config.compute]
    variants += [
        {"method": m, "granularity": g, "bits": bits, "options": options}
        for m, g, bits in codebooks
        for options in (forms if m == AUTO else [config.options])
    ]
    variants += [
        {"method": TARGET, "budget": budget, "calibration": calibration, "options": options}
        for budget in config.budgets
        for options in forms
    ]
    runs = [
        Run(
            model=model,
            dataset=dataset,
            samples=config.samples,
            reserved=calibration.samples if calibration is not None and calibration.split else 0,
            threads=config.threads,
            metrics=metrics,
            **{"options": config.options, **variant},
        )
        for model in models
        for dataset in datasets
        for variant in variants
    ]
    return runs, without_baselines + without_codebooks


def _baselines(
    config: SweepConfig, installed: Callable[[str], bool]
) -> tuple[list[tuple[str, int | None]], list[str]]:
    """Return baselines with their bits, and messages about those that are left out."""
    entries: list[tuple[str, int | None]] = []
    skipped: list[str] = []
    for name in config.baselines:
        baseline = BASELINES[name]
        reason = None
        if baseline.package is not None and not installed(baseline.package):
            reason = f"{baseline.package} is not installed"
        elif baseline.calibrated and config.calibration is None:
            reason = "needs a table [calibration] with data"
        if reason is not None:
            if config.strict:
                raise QqonnxError(f"{config.path}: baseline {name}: {reason}")
            skipped.append(f"{name}: {reason}")
        elif not baseline.at_each_bits:
            entries.append((name, next(iter(baseline.bits), None)))
        else:
            entries += [(name, bits) for bits in config.bits if bits in baseline.bits]
            skipped += [
                f"{name} at {bits} bits: it has no such bit-width"
                for bits in config.bits
                if bits not in baseline.bits
            ]
    return entries, skipped


def _codebooks(config: SweepConfig) -> tuple[list[tuple[str, Any, int]], list[str]]:
    """Return methods with granularity and bits, and messages about those that are left out."""
    entries: list[tuple[str, Any, int]] = []
    skipped: list[str] = []
    for method in config.methods:
        for bits in config.bits:
            kinds = (None,) if method == AUTO else config.granularities
            try:
                method_named(PLAIN_METHOD if method == AUTO else method).levels_for(bits)
            except QqonnxError as error:
                kinds = ()
                skipped.append(f"{method} at {bits} bits: {error}")
            entries += [(method, granularity, bits) for granularity in kinds]
    return entries, skipped

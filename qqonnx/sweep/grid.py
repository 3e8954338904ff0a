"""From a configuration to the runs it asks for, each with a key of what decides its result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.codebooks import method_named
from qqonnx.errors import QqonnxError
from qqonnx.model.load import model_files, read
from qqonnx.sweep.baselines import BASELINES
from qqonnx.sweep.config import SPLIT
from qqonnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qqonnx.config import Granularity, Options
    from qqonnx.sweep.config import SweepConfig

TARGET = "target"
"""The method of a run that is calibrated to a budget."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A model or data set.

    Attributes:
        name: what the results call it.
        path: where it is.
        digest: SHA-256 in hexadecimal digits; of a folder, that of its files' names and sizes.
    """

    name: str
    path: Path
    digest: str


@dataclass(frozen=True)
class CalibrationSource:
    """Inputs to calibrate with.

    Attributes:
        data: a file or folder; None for made-up inputs or images of the data set.
        samples: greatest number.
        split: whether they are images of the data set.
        finetune: tune end to end afterwards.
    """

    data: Source | None
    samples: int
    split: bool
    finetune: bool


@dataclass(frozen=True)
class Run:
    """One way to store one model, judged by one data set.

    Attributes:
        model: the float model.
        dataset: what it is judged by.
        samples: greatest number of images to judge by; None for all.
        apart: images of the data set that are kept for calibration.
        method: a codebook method, a baseline, or `TARGET`.
        bits: bits a weight; None for floats and targets.
        budget: of a target.
        granularity: of a codebook method.
        calibration: of a target or a baseline that needs it.
        options: for codebooks: which weights.
        threads: threads.
    """

    model: Source
    dataset: Source
    samples: int | None
    apart: int
    method: str
    bits: int | None
    budget: str | None
    granularity: Granularity | None
    calibration: CalibrationSource | None
    options: Options
    threads: int

    @property
    def is_baseline(self) -> bool:
        """Whether it is not qqonnx's."""
        return self.method in BASELINES

    @property
    def label(self) -> str:
        """What messages call it."""
        width = None if self.bits is None else f"{self.bits} bits"
        parts = (self.model.name, self.dataset.name, self.method, self.granularity)
        return ", ".join(part for part in (*parts, width, self.budget) if part is not None)

    @property
    def key(self) -> str:
        """SHA-256 of what decides the result."""
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
        """Return for JSON what else decides the result."""
        found: dict[str, Any] = {"threads": self.threads, "apart": self.apart}
        if not self.is_baseline:
            kept = ("skip", "include_bias", "min_size")
            found |= {name: getattr(self.options, name) for name in kept}
        if self.calibration is not None:
            found["calibration"] = asdict(self.calibration)
            # Where a file is does not matter.
            if self.calibration.data is not None:
                found["calibration"]["data"] = self.calibration.data.digest
        return found

    def row(self) -> dict[str, Any]:
        """Return what the results say of the run before it has run."""
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
    """Return the runs of a grid, and a line for each thing left out and why.

    Args:
        config: the configuration.
        models: its models, as files.
        installed: whether a package is installed where the runs will be.

    Raises:
        QqonnxError: a path is not there, or a baseline that was asked for by name cannot run.
    """
    datasets = [source_of(path) for path in config.datasets]
    calibration = None
    if config.calibration is not None:
        data = config.calibration.data
        calibration = CalibrationSource(
            source_of(data) if isinstance(data, Path) else None,
            config.calibration.samples,
            data == SPLIT,
            config.calibration.finetune,
        )
    apart = calibration.samples if calibration is not None and calibration.split else 0
    skipped: list[str] = []
    baselines = list(_baselines(config, installed, skipped))
    codebooks = list(_codebooks(config, skipped))
    runs = []
    for model in models:
        for dataset in datasets:
            blank = Run(
                model=model,
                dataset=dataset,
                samples=config.samples,
                apart=apart,
                method="",
                bits=None,
                budget=None,
                granularity=None,
                calibration=None,
                options=config.options,
                threads=config.threads,
            )
            for name, bits in baselines:
                used = calibration if BASELINES[name].calibrated else None
                runs.append(replace(blank, method=name, bits=bits, calibration=used))
            for method, granularity, bits in codebooks:
                runs.append(replace(blank, method=method, granularity=granularity, bits=bits))
            runs += [
                replace(blank, method=TARGET, budget=budget, calibration=calibration)
                for budget in config.budgets
            ]
    return runs, list(dict.fromkeys(skipped))


def source_of(path: Path) -> Source:
    """Return a file or folder with its digest.

    Raises:
        QqonnxError: there is nothing.
    """
    return Source(path.name, path, digest_of(path))


def model_source(path: Path) -> Source:
    """Return a model with the digest of its file and of its external data.

    Raises:
        QqonnxError: it cannot be read.
    """
    return Source(path.stem, path, model_digest(path))


def model_digest(path: Path) -> str:
    """Return the SHA-256 of a model's file; of several files, that of their digests.

    Raises:
        QqonnxError: it cannot be read.
    """
    digests = [digest_of(file) for file in model_files(read(path), path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and sizes of a folder's files.

    Raises:
        QqonnxError: there is nothing, or it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            # The images of a large data set are not read twice.
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                line = f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\n"
                digest.update(line.encode())
        else:
            with path.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
    except OSError as error:
        raise QqonnxError(f"{path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _baselines(
    config: SweepConfig, installed: Callable[[str], bool], skipped: list[str]
) -> Iterator[tuple[str, int | None]]:
    for name in config.baselines:
        baseline = BASELINES[name]
        reason = None
        if baseline.package is not None and not installed(baseline.package):
            reason = f"{baseline.package} is not installed"
        elif baseline.calibrated and config.calibration is None:
            reason = "needs a table [calibration] with data"
        if reason is not None:
            if config.picky:
                raise QqonnxError(f"{config.path}: baseline {name}: {reason}")
            skipped.append(f"{name}: {reason}")
        elif not baseline.at_each_bits:
            yield name, next(iter(baseline.bits), None)
        else:
            for bits in config.bits:
                if bits in baseline.bits:
                    yield name, bits
                else:
                    skipped.append(f"{name} at {bits} bits: it has no such bit-width")


def _codebooks(config: SweepConfig, skipped: list[str]) -> Iterator[tuple[str, Granularity, int]]:
    for method in config.methods:
        for bits in config.bits:
            try:
                method_named(method).levels_for(bits)
            except QqonnxError as error:
                skipped.append(f"{method} at {bits} bits: {error}")
                continue
            for granularity in config.granularities:
                yield method, granularity, bits

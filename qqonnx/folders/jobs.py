"""What is to become of each model of a folder, decided before anything is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from qqonnx.errors import OptionError, QqonnxError
from qqonnx.folders.contents import SourceModel, contents_of
from qqonnx.folders.names import is_variant, renamed, suffix_of
from qqonnx.folders.rules import Settings, check_rules, read_rules, settings_of
from qqonnx.model.load import read
from qqonnx.model.select import select

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qqonnx.config import Calibration, Options


@dataclass(frozen=True)
class Job:
    """What is to become of one model.

    Attributes:
        model: the model.
        output: path of the ONNX file to write, relative to the output folder.
        settings: how it is made.
    """

    model: SourceModel
    output: Path
    settings: Settings


@dataclass(frozen=True)
class FolderJobs:
    """What is to become of the files of a folder.

    Attributes:
        models: a job for each model.
        replaced: models that are left out, because another model's output has their name.
        others: the files that are no models; paths relative to the folder.
    """

    models: tuple[Job, ...]
    replaced: tuple[SourceModel, ...]
    others: tuple[Path, ...]


def jobs_of(
    folder: Path,
    target: Path,
    options: Options,
    calibration: Calibration | None,
    rules_file: Path | None,
    name: str | None,
) -> FolderJobs:
    """Return the jobs of a folder; arguments as for `compress_folder`.

    Raises:
        OptionError: an option does not fit, or two models would get the same name.
        QqonnxError: the folder or the rules cannot be read, or the folder holds no model.
    """
    suffix = suffix_of(name) if name is not None else ""
    contents = contents_of(folder, target)
    if not contents.models:
        raise QqonnxError(f"{folder}: holds no ONNX file")
    rules = read_rules(rules_file) if rules_file is not None else []
    check_rules(rules, [model.path for model in contents.models])
    jobs = []
    for model in contents.models:
        settings = settings_of(model.path, options, calibration, rules)
        output = model.path
        if suffix and is_variant(model.path, suffix):
            settings = replace(settings, copy=True)
        elif suffix and not settings.copy:
            output = renamed(model.path, suffix)
        jobs.append(Job(model, output, settings))
    made = {job.output for job in jobs if not job.settings.copy}
    replaced = tuple(job.model for job in jobs if job.settings.copy and job.output in made)
    jobs = [job for job in jobs if job.model not in replaced]
    _check_names(jobs)
    return FolderJobs(_with_fitting_patterns(folder, jobs), replaced, contents.others)


def _check_names(jobs: Sequence[Job]) -> None:
    counts = Counter(job.output for job in jobs)
    for job in jobs:
        if counts[job.output] > 1:
            raise OptionError("name", f"{job.model.path} and another would become {job.output}")


def _with_fitting_patterns(folder: Path, jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Leave out patterns of weights that a model does not have but another one has."""
    fields = {
        pattern: field
        for job in jobs
        for field in ("skip", "bits_for")
        for pattern in getattr(job.settings.options, field)
    }
    if not fields:
        return tuple(jobs)
    found: set[str] = set()
    fitting = []
    for job in jobs:
        names: list[str] = []
        if job.model.error is None and not job.settings.copy:
            weights, _ = select(read(folder / job.model.path), include_bias=True)
            names = [weight.name for weight in weights]
        own = {p for p in fields if any(fnmatchcase(name, p) for name in names)}
        found |= own
        options = job.settings.options
        options = replace(
            options,
            skip=tuple(pattern for pattern in options.skip if pattern in own),
            bits_for={p: bits for p, bits in options.bits_for.items() if p in own},
        )
        fitting.append(replace(job, settings=replace(job.settings, options=options)))
    for pattern, field in fields.items():
        if pattern not in found:
            raise OptionError(field, f"no weight of any model has a name like {pattern}")
    return tuple(fitting)

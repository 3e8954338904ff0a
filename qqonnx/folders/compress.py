"""The way of one folder: decide, compress each model, copy the rest."""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.compression.pipeline import compress
from qqonnx.config import Options
from qqonnx.errors import NothingToCompressError, QqonnxError
from qqonnx.folders.contents import UNFINISHED, without_links
from qqonnx.folders.jobs import jobs_of
from qqonnx.folders.names import data_name
from qqonnx.folders.results import FolderModel, FolderReport
from qqonnx.folders.speed import run_ratio
from qqonnx.folders.state import State, finished, made_from, read_state, unchanged, write_state
from qqonnx.model.save import data_file, rename_data
from qqonnx.temporary import uninterrupted

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from qqonnx.config import Calibration, Progress
    from qqonnx.folders.contents import SourceModel
    from qqonnx.folders.jobs import FolderJobs, Job


def compress_folder(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Options | None = None,
    *,
    calibration: Calibration | None = None,
    rules: str | os.PathLike[str] | None = None,
    name: str | None = None,
    runtime_min: str | None = None,
    threads: int | None = None,
    timings: bool = False,
    progress: Progress = lambda *_: None,
) -> FolderReport:
    """Compress every model of a folder and copy everything else.

    Models are the files that end with .onnx, also in the folders below. The output folder gets the
    same layout. External data keeps its name. Models without a weight to compress are copied. What
    an earlier run with the same arguments finished is kept, so an interrupted run goes on where it
    stopped. No file appears before it is complete.

    Args:
        folder: the folder, such as a downloaded repository.
        output: the folder to write. It may exist; other files in it stay.
        options: how weights are compressed; by default `Options()`.
        calibration: how levels are calibrated, and a target for each model.
        rules: TOML file of options by the name of a model; `qqonnx.folders.rules` describes it.
        name: a `dtype` of transformers.js, such as "q4": the models get the name that this loader
            looks for, such as model_q4.onnx; or a suffix that starts with _ or -. Models that
            have such a name already are copied then.
        runtime_min: an ONNX Runtime release, such as "1.15", that must read the files.
        threads: number of weights worked on at once; by default the number of cores.
        timings: whether the time of a run is measured, on synthetic inputs.
        progress: function called as by `compress`; each step begins with the model's path.

    Returns:
        What became of each model. A model that could not be compressed is among them, with the
        reason, and has no file in the output folder.

    Raises:
        OptionError: an option does not fit, would be ignored, or two models get the same name.
        QqonnxError: the folder or the rules cannot be read, or the output cannot be written.
    """
    root, target = Path(folder), Path(output)
    rules_file = Path(rules) if rules is not None else None
    _check_folders(root, target, name)
    real = root
    try:
        with without_links(root, target) as real:
            jobs = jobs_of(real, target, options or Options(), calibration, rules_file, name)
            return _finish(_Run(root, real, target, runtime_min, threads, timings, progress), jobs)
    except OSError as error:
        raise QqonnxError(f"{error.filename or target}: {error.strerror or error}") from error
    except QqonnxError as error:
        if str(real) not in str(error):
            raise
        raise QqonnxError(str(error).replace(str(real), str(root))) from error


@dataclass(frozen=True)
class _Run:
    name: Path
    folder: Path
    target: Path
    runtime_min: str | None
    threads: int | None
    timings: bool
    progress: Progress


def _check_folders(folder: Path, target: Path, name: str | None) -> None:
    if not folder.is_dir():
        raise QqonnxError(f"{folder}: not a folder")
    if target.exists() and not target.is_dir():
        raise QqonnxError(f"{target}: is a file; the output of a folder is a folder")
    if target.resolve() == folder.resolve() and name is None:
        raise QqonnxError(f"{target}: would overwrite the models; name another folder, or --name")


def _finish(run: _Run, jobs: FolderJobs) -> FolderReport:
    """Do what the output folder lacks."""
    target = run.target
    unfinished = target / UNFINISHED
    state = read_state(target)
    try:
        # What a killed run left behind.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        models = tuple(_model(run, job, state) for job in jobs.models)
        copied, kept = _copy_others(run, jobs, models)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    before = {file for job in jobs.models for file in (job.model.path, *job.model.data)}
    after = {file for model in models for file in model.files}
    return FolderReport(
        path=target,
        models=models,
        copied=copied,
        kept=kept,
        bytes_before=_bytes(run.folder, before.union(copied, kept)),
        bytes_after=_bytes(target, after.union(copied, kept)),
    )


def _bytes(folder: Path, files: Iterable[Path]) -> int:
    return sum((folder / file).stat().st_size for file in files)


def _model(run: _Run, job: Job, state: State) -> FolderModel:
    """Compress or copy one model, or find it in the output folder."""
    model = job.model
    if model.error is not None:
        return _failed(run, model, model.error)
    if job.settings.copy:
        return _copied(run, model, None)
    key = job.output.as_posix()
    source = made_from(
        [run.folder / path for path in (model.path, *model.data)],
        job.settings,
        {"output": key, "runtime_min": run.runtime_min},
    )
    found = unchanged(state.get(key), model.path, source, run.target)
    if found is not None:
        return found
    written = run.target / UNFINISHED / job.output.name
    try:
        result = _compressed(run, job, written)
    except NothingToCompressError as error:
        return _copied(run, model, str(error).removeprefix(f"{run.folder / model.path}: "))
    except QqonnxError as error:
        reason = str(error).replace(str(written), str(run.target / job.output))
        return _failed(run, model, reason)
    except MemoryError:
        return _failed(run, model, "out of memory")
    state[key] = finished(result, source, run.target)
    write_state(run.target, state)
    return result


def _compressed(run: _Run, job: Job, written: Path) -> FolderModel:
    path = job.model.path

    def progress(step: str, amount: int, total: int) -> None:
        run.progress(f"{path}: {step}", amount, total)

    report = compress(
        run.folder / path,
        written,
        job.settings.options,
        calibration=job.settings.calibration,
        external_data=bool(job.model.data),
        runtime_min=run.runtime_min,
        threads=run.threads,
        progress=progress,
    )
    ratio = run_ratio(run.folder / path, written) if run.timings else None
    return FolderModel(
        path=path,
        state="compressed",
        bytes_before=report.bytes_before,
        files=_put(run, job, written),
        bytes_after=report.bytes_after,
        quality=report.quality.outputs[0] if report.quality.outputs else None,
        run_ratio=ratio,
        reason=report.quality.reason,
        report=report,
    )


def _put(run: _Run, job: Job, written: Path) -> tuple[Path, ...]:
    """Move a complete model to its place, its external data first; return the relative paths."""
    files = [written]
    data = data_file(written)
    if data.exists():
        names = tuple(path.name for path in job.model.data)
        name = data_name(job.model.path.name, names, job.output.name)
        files.append(rename_data(written, name) if name is not None else data)
    places = [job.output.with_name(file.name) for file in files]
    (run.target / job.output).parent.mkdir(parents=True, exist_ok=True)
    with uninterrupted():
        for file, place in reversed(list(zip(files, places, strict=True))):
            file.replace(run.target / place)
    return tuple(places)


def _failed(run: _Run, model: SourceModel, reason: str) -> FolderModel:
    reason = reason.replace(str(run.folder), str(run.name))
    return FolderModel(model.path, "failed", model.nbytes, reason=reason)


def _copied(run: _Run, model: SourceModel, reason: str | None) -> FolderModel:
    """Copy a model as it is; `_copy_others` copies its external data."""
    _copy(run, model.path)
    files = (model.path, *model.data)
    return FolderModel(model.path, "copied", model.nbytes, files, model.nbytes, reason=reason)


def _copy_others(
    run: _Run, jobs: FolderJobs, models: tuple[FolderModel, ...]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Copy the files that are neither models nor data that is needed no more.

    Returns:
        The paths that were copied, and those that were there already.
    """
    made = {file for model in models if model.state != "copied" for file in model.files}
    needed = {file for model in models if model.state == "copied" for file in model.files}
    old = {file for source in jobs.replaced for file in source.data}
    old |= {file for job in jobs.models for file in job.model.data}
    copied: list[Path] = []
    kept: list[Path] = []
    for path in jobs.others:
        if path in made or (path in old and path not in needed):
            continue
        added = _copy(run, path)
        # The bytes of external data count with the model.
        if path not in needed:
            (copied if added else kept).append(path)
    return tuple(copied), tuple(kept)


def _copy(run: _Run, path: Path) -> bool:
    """Copy a file; return False if the output folder has the same content already."""
    source, place = run.folder / path, run.target / path
    if place.is_file() and filecmp.cmp(source, place, shallow=False):
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = run.target / UNFINISHED / path.name
    shutil.copyfile(source, unfinished)
    unfinished.replace(place)
    return True

"""The wheel and the sdist: complete, nothing else in them, and the wheel runs on its own."""

from __future__ import annotations

import importlib.metadata as installed
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Return the files of the repository, new ones that git does not ignore included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def built(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("package")
    for name in tracked:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(
        [*command, str(folder / "source")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def wheel_of(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_holds_the_package(built: Path, tracked: set[str]) -> None:
    names = set(zipfile.ZipFile(wheel_of(built)).namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {name for name in tracked if name.startswith("qqonnx/")}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_holds_the_repository(built: Path, tracked: set[str]) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        names = {member.name.partition("/")[2] for member in members}
        added = {name for name in names if name.startswith("qqonnx.egg-info/")}
        added |= {"PKG-INFO", "setup.cfg"}
        hidden = {name for name in tracked if name.startswith((".ci/", ".git"))}
        assert names - added == tracked - hidden
        for member in members:
            content = archive.extractfile(member)
            assert content is not None
            assert not re.search(rb"/work/(shared|venvs|exp|wt-|main)", content.read()), member.name


def test_metadata(built: Path) -> None:
    files = [str(path) for path in built.iterdir() if path.suffix in (".whl", ".gz")]
    assert len(files) == 2
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_wheel_runs_on_its_own(built: Path, tmp_path: Path) -> None:
    """In an environment that holds the wheel and what it declares to depend on, nothing else."""
    venv.create(tmp_path / "clean", with_pip=False, symlinks=os.name != "nt")
    scripts = tmp_path / "clean" / ("Scripts" if os.name == "nt" else "bin")
    command = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install"]
    command += ["--quiet", "--no-deps", "--no-index", str(wheel_of(built))]
    subprocess.run(command, check=True, capture_output=True)
    # Dependencies are linked in instead of being downloaded once more.
    (record,) = (tmp_path / "clean").rglob("qqonnx-*.dist-info")
    for entry in dependencies(installed.Distribution.at(record)):
        (tmp_path / "dependencies").mkdir(exist_ok=True)
        (tmp_path / "dependencies" / entry.name).symlink_to(entry)

    small = tmp_path / "small.onnx"
    model = ROOT / "models" / "digits_mobilenet_v3_small.onnx"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "dependencies")}

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(scripts / program), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-c", "import qqonnx; print(qqonnx.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path / "clean")
    run("convert-model", str(model), "-o", str(small), "--bits", "4")
    assert small.stat().st_size < model.stat().st_size / 6
    assert "compressed by qqonnx" in run("qqonnx", "inspect", str(small))


def dependencies(package: installed.Distribution) -> set[Path]:
    """Return what the package's dependencies, and theirs, put into the packages' folder."""
    found: set[Path] = set()
    pending, seen = [(package, "")], {("qqonnx", "")}
    while pending:
        distribution, extra = pending.pop()
        if distribution is not package:
            tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
            found |= {Path(str(distribution.locate_file(top))) for top in tops}
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            for wanted in ("", *requirement.extras):
                if (requirement.name, wanted) not in seen:
                    seen.add((requirement.name, wanted))
                    pending.append((installed.distribution(requirement.name), wanted))
    return found

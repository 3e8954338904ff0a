"""Time a model with and without integer execution in ONNX Runtime Web, beside the float model.

    make test-web        # once: builds examples/web
    python tools/bench_web_int8.py MODEL --data DATA [--bits 4.4] [--repeats 5]
        [--write docs/deployment.md]

Needs node, the packages of examples/web and Chromium. The files are those of `tools/bench_int8.py`.
Every run has one sample and one thread. Files take turns; figures are medians of the ratios to the
float model in the same turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path
from shutil import copyfile

import onnxruntime as ort
from bench_int8 import labeled_feeds, make_files, without_labels
from bench_web import WEB, answer
from sections import write_or_print

from qqonnx.integer.layers import form_of
from qqonnx.model.load import load


def main() -> None:
    """Write the files, time them in the browser, print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True, help="inputs that calibrate")
    parser.add_argument("--bits", default="4.4", help="bits per weight of the files")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    feeds = [without_labels(feed) for feed in labeled_feeds(args.model, args.data, args.samples)]
    form = form_of(load(args.model)) or "int8-dynamic"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_files(args.model, folder, form, feeds, args.bits.split(","), 63)
        served = folder / "served"
        served.mkdir()
        (served / "vendor").symlink_to(WEB / "vendor")
        (served / "index.html").write_text("<!doctype html><title>speed</title>", "utf-8")
        for number, file in enumerate(files.values()):
            copyfile(file, served / f"{number}.onnx")
        [(key, array)] = feeds[0].items()
        sample = {"name": key, "shape": array.shape, "data": array.reshape(-1).tolist()}
        (folder / "input.json").write_text(json.dumps(sample), "utf-8")
        names = [f"{number}.onnx" for number in range(len(files))]
        turns = answer(served, "speed.mjs", folder / "input.json", args.repeats, *names)
        sizes = [file.stat().st_size for file in files.values()]
    lines = ["| file | MB | load × | run × |", "|---|---:|---:|---:|"]
    for number, (label, size) in enumerate(zip(files, sizes, strict=True)):
        load_ratio, run_ratio = (
            statistics.median(turn[number][which] / turn[0][which] for turn in turns)
            for which in (0, 1)
        )
        lines.append(f"| {label} | {size / 1e6:.2f} | {load_ratio:.2f} | {run_ratio:.2f} |")
    lines += [
        "",
        f"`{args.model.name}`, {form}. ONNX Runtime Web's wasm, one thread, headless Chromium, "
        f"{platform.system()} {platform.machine()}; files of ONNX Runtime {ort.__version__}; "
        f"medians of {args.repeats}, divided by the float model's.",
    ]
    write_or_print(args.write, "web int8", "\n".join(lines))


if __name__ == "__main__":
    main()

"""Measure the time of each stage of a conversion; for tools/bench.py.

    python tools/bench_stages.py MODEL [MODEL ...]

Each model is compressed at 4 bits by k-means with one codebook per tensor, on one thread and then
with one thread per core. The timed functions belong to `qqonnx.compression.pipeline` and
`qqonnx.encoding.encode`. The time of a stage excludes the other stages that it calls.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from stages import stage_times

from qqonnx import Options, compress
from qqonnx.config import plan_weights
from qqonnx.model.load import load
from qqonnx.model.select import select
from qqonnx.parallel import available_cores

STAGES = {
    "load": (
        "compression.pipeline.load",
        "compression.choice.select",
        "compression.choice.plan_weights",
    ),
    "codebook": ("encoding.encode.fit",),
    "indices": (
        "encoding.encode.assign",
        "encoding.encode.by_frequency",
        "encoding.encode.pack",
    ),
    "error, digest": (
        "encoding.encode.decode_values",
        "encoding.encode.distortion",
        "encoding.encode.digest",
    ),
    "rewrite, write": ("compression.job.rewrite", "compression.job.write"),
    "verify weights": ("encoding.verify.restore_weights", "encoding.verify.write"),
    "verify outputs": ("encoding.verify.compare_outputs",),
    "quality": ("compression.plain.quality_feeds", "compression.pipeline.measure_quality"),
}
"""Stage -> its timed functions, by the module that calls them."""

MODEL_NAMES = ("resnet50", "vit_b_16")
OPTIONS = Options(method="kmeans", bits=4)
LARGE = 268_000_000
"""Number of weights in the 1 GiB model."""


def profile(model: Path, output: Path) -> dict[str, float]:
    """Compress on one thread; return the seconds per stage, and of `other`."""
    times = stage_times(
        lambda: compress(model, output, OPTIONS, threads=1), STAGES, time.perf_counter
    )
    return {stage: seconds for stage, seconds in times.items() if stage != "whole"}


def sorting(model: Path) -> float:
    """Return the seconds of `np.sort` on all weights, reading included."""
    weights = [entry.weight for entry in plan_weights(select(load(model))[0], Options())[0]]
    start = time.perf_counter()
    for weight in weights:
        np.sort(weight.tensor.numpy(), axis=None)
    return time.perf_counter() - start


def on_all_cores(model: Path, output: Path) -> float:
    """Return the seconds of a whole conversion with one thread per core."""
    start = time.perf_counter()
    compress(model, output, OPTIONS)
    return time.perf_counter() - start


def column(model: Path, repeats: int) -> list[str]:
    """Return the cells of one model; each time is the least of `repeats` runs."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.onnx"
        turns = [
            (sorting(model), profile(model, output), on_all_cores(model, output))
            for _ in range(repeats)
        ]
    sort = min(turn[0] for turn in turns)
    stages = {stage: min(turn[1][stage] for turn in turns) for stage in turns[0][1]}
    whole = min(sum(turn[1].values()) for turn in turns)
    cells = [f"{seconds / sort:.2f}" for seconds in stages.values()]
    return [*cells, f"{whole / sort:.2f}", f"{min(turn[2] for turn in turns) / sort:.2f}"]


def table(models: dict[str, Path], repeats: int) -> str:
    """Return a Markdown table: one line per stage, one column per model."""
    heads = [*STAGES, "other", "whole", f"whole, {available_cores()} threads"]
    columns = [column(path, repeats) for path in models.values()]
    lines = ["| " + " | ".join(["stage", *models]) + " |", "|---" + "|---:" * len(models) + "|"]
    lines += [
        f"| {head} | {' | '.join(cells)} |"
        for head, cells in zip(heads, zip(*columns, strict=True), strict=True)
    ]
    return "\n".join(lines)


def section(options: argparse.Namespace) -> str:
    """Return the section of docs/performance.md."""
    from bench_scaling import make_model

    from qqonnx import export

    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for name in MODEL_NAMES:
            models[name] = Path(folder) / f"{name}.onnx"
            export(name, models[name], weights="none")
        models["MatMul, 1 GiB"] = Path(folder) / "large.onnx"
        make_model(models["MatMul, 1 GiB"], LARGE)
        found = table(models, options.repeats)
    return "\n\n".join(
        [
            "## Stages of a conversion",
            "Time at 4 bits, k-means, one codebook per tensor, divided by the time of `np.sort` on "
            f"all weights (reading included). Least of {options.repeats} runs. One thread, except "
            "in the last line. ONNX Runtime, which checks the outputs, uses its own threads.",
            found,
            f"Python {platform.python_version()}, numpy {np.__version__}, {available_cores()} "
            f"cores, {platform.system()} {platform.machine()}.",
        ]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(table({path.stem: path for path in arguments.models}, arguments.repeats))


if __name__ == "__main__":
    main()

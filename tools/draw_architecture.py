"""Draw docs/figures/architecture.png: the rooms of the package, and the path of a weight.

    python tools/draw_architecture.py

The rows are the layers that pyproject.toml declares for lint-imports. The arrows are the imports in
the code, without those that follow from others: a room that imports B, which imports C, has no
arrow to C. Needs matplotlib and grimp (extra `test`).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grimp
import matplotlib as mpl
import numpy as np
from matplotlib.patches import FancyBboxPatch

from qqonnx.encoding.packing import pack, storage_for

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "figures" / "architecture.png"

ROOMS = {
    "cli": ("commands and tables", 0.5),
    "cards": ("model cards in Markdown", 0.5),
    "folders": ("every model of a repository", 0.5),
    "report": ("one HTML page of a sweep", 0.0),
    "sweep": ("grids of runs, results file", 0.0),
    "study": ("experiments of the paper", 1.0),
    "compression": ("pipeline, results, inspect", 0.0),
    "finetune": ("gradient descent in PyTorch", 0.0),
    "calibration": ("GPTQ and allocation", 0.5),
    "zoo": ("PyTorch models to ONNX", 1.0),
    "integer": ("execution in integers", 0.5),
    "encoding": ("the stored form", 0.0),
    "evaluation": ("metrics, timing, sizes", 1.0),
    "inputs": ("images, arrays, runs", 1.0),
    "config": ("options, plan of each weight", 0.0),
    "codebooks": ("levels from values; numpy only", 0.0),
    "model": ("load, select, compare, save", 1.0),
}
"""Room -> its content, and its column: 0 is left, 0.5 is the middle, 1 is right."""

WIDTH, HEIGHT = 2.45, 0.5
"""Size of a box in inches."""

TOTAL, PITCH = 7.8, 0.79
"""Width of the columns with their gaps, and distance of rows, in inches."""

BOX = {"facecolor": "#EAF2FA", "edgecolor": "#33587A"}
SHARED = {"facecolor": "#F2F2F2", "edgecolor": "#777777"}


def layers() -> list[list[str]]:
    """Return the rooms of each layer, the highest layer first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    return [re.findall(r"\w+", layer) for layer in contract["layers"]]


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    graph = grimp.build_graph("qqonnx", cache_dir=None)
    edges: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module in graph.modules - {"qqonnx"}:
        room = module.split(".")[1]
        for imported in graph.find_modules_directly_imported_by(module) - {"qqonnx"}:
            other = imported.split(".")[1]
            if room in ROOMS and other in ROOMS and other != room:
                edges[room].add(other)
    return edges


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the edges of an acyclic graph without those that follow from others."""

    def reachable(room: str) -> set[str]:
        return edges[room].union(*(reachable(other) for other in edges[room]))

    return {
        room: others - set().union(*(reachable(other) for other in others))
        for room, others in edges.items()
    }


def draw_rooms(axes: Axes, edges: dict[str, set[str]]) -> None:
    """Draw one box per room, in rows by layer, and one arrow per import."""
    *rows, modules, errors = layers()
    places = {
        room: (ROOMS[room][1] * (TOTAL - WIDTH), -PITCH * number)
        for number, row in enumerate(rows)
        for room in row
    }
    for room, (x, y) in places.items():
        draw_box(axes, x, y, WIDTH, HEIGHT, **BOX)
        draw_lines(axes, x + WIDTH / 2, y, room, ROOMS[room][0])
    for room, others in edges.items():
        for other in others:
            draw_arrow(axes, places[room], places[other])
    bottom = -PITCH * len(rows)
    draw_box(axes, 0, bottom, TOTAL, HEIGHT, **SHARED)
    shared = ", ".join([*modules, *errors])
    draw_lines(axes, TOTAL / 2, bottom, shared, "shared modules: any room may import these")
    axes.set(xlim=(-0.1, TOTAL + 0.1), ylim=(bottom - 0.1, 0.95))
    title = "Rooms: an arrow is an import; imports that follow from others are omitted"
    axes.text(0, 0.75, title, size=10.5)


def draw_lines(axes: Axes, x: float, y: float, name: str, content: str) -> None:
    """Write a name and below it a description, centered in the box that starts at `y`."""
    axes.text(x, y + 0.33, name, weight="bold", size=10, ha="center", va="center", zorder=5)
    axes.text(x, y + 0.14, content, size=9, ha="center", va="center", zorder=5)


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow down to the top of a box, or between the facing sides of both columns."""
    shift = end[0] - start[0]
    if abs(shift) > WIDTH:
        right = shift > 0
        tail = start[0] + WIDTH * right, start[1] + HEIGHT / 2
        head = end[0] + WIDTH * (not right), end[1] + HEIGHT / 2
    else:
        tail = start[0] + WIDTH / 2 + 0.4 * shift, start[1]
        head = end[0] + WIDTH / 2 - 0.3 * shift, end[1] + HEIGHT
    style = {"arrowstyle": "-|>", "color": "#33587A", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", head, tail, arrowprops=style)


def draw_box(axes: Axes, x: float, y: float, width: float, height: float, **colors: str) -> None:
    """Draw a box with its lower left corner at (x, y)."""
    shape = "round,pad=0,rounding_size=0.06"
    # Above the arrows, which may pass behind a box.
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, zorder=4, **colors))  # type: ignore[arg-type]


def stages() -> list[tuple[str, str, str]]:
    """Return the stages of four weights at 3 bits: the room, the stage, and an example."""
    weights = np.array([0.02, -0.11, 0.10, 0.31])
    levels = np.array([0.02, -0.05, 0.09, -0.2, 0.15, -0.12, 0.22, 0.30])
    indices = np.abs(weights[:, None] - levels).argmin(1).astype(np.uint8)
    storage = storage_for(levels.size)
    code = int("".join(map(str, indices)), levels.size)
    # The first code of the 4-bit plane is in the high half of its byte.
    low, high = (
        int(plane[0]) >> (8 - bits)
        for plane, bits in zip(pack(indices, storage), (8, 4), strict=True)
    )
    if code != (high << 8 | low):
        raise SystemExit("the example does not match qqonnx.encoding.packing")

    def row(values: np.ndarray) -> str:
        return "\n".join(
            "  ".join(f"{v:.2f}".replace("-", "−") for v in pair) for pair in values.reshape(2, 2)
        )

    digits = "  ".join(map(str, indices))
    return [
        ("model", "weight", f"{row(weights)}\n\nfour values\nof a float tensor"),
        (
            "codebooks\ncalibration",
            "indices, codebook",
            f"{digits}\n\n8 levels:\n0.02  −0.05  0.09  …",
        ),
        ("encoding", "code", f"{code:012b}\n\none group: 4 indices\nof 3 bits"),
        ("encoding", "planes", f"{low:08b}\n{high:04b}\n\na byte plane\nand a 4-bit plane"),
        (
            "encoding",
            "decode nodes",
            f"{row(levels[indices])}\n\nGather, Reshape;\nverified, then saved",
        ),
    ]


def draw_path(axes: Axes) -> None:
    """Draw the stages of a weight from left to right."""
    width, gap = 1.36, 0.25
    for number, (room, stage, example) in enumerate(stages()):
        x = number * (width + gap)
        draw_box(axes, x, 0.2, width, 1.25, facecolor="#FFF8E8", edgecolor="#8A6D1F")
        middle = x + width / 2
        axes.text(middle, 1.3, stage, weight="bold", size=8.6, ha="center", va="center", zorder=5)
        axes.text(
            middle, 1.12, example, size=8.5, ha="center", va="top", linespacing=1.25, zorder=5
        )
        axes.text(middle, 1.53, room, size=9, ha="center", va="bottom", color="#33587A")
        if number:
            style = {"arrowstyle": "-|>", "color": "#8A6D1F", "lw": 1.3}
            axes.annotate("", (x, 0.82), (x - gap, 0.82), arrowprops=style)
    axes.set(xlim=(-0.1, TOTAL + 0.1), ylim=(0.1, 2.25))
    axes.text(0, 2.05, "Path of a weight at 3 bits, and the room of each step", size=10.5)


def main() -> None:
    """Draw both parts into one picture."""
    figure, parts = plt.subplots(
        2, 1, figsize=(8, 11.6), dpi=150, height_ratios=(9.1, 2.35), layout="constrained"
    )
    for axes in parts:
        axes.axis("off")
        axes.set_aspect("equal")
    draw_rooms(parts[0], reduced(imports()))
    draw_path(parts[1])
    figure.savefig(PICTURE, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()

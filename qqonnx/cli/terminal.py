"""Options, progress bars and output that several commands share."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from qqonnx.cli.memory import limited_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

JSON = typer.Option("--json", help="Print the result as JSON on stdout.")
QUIET = typer.Option("--quiet", "-q", help="No progress bar and no table.")
FILE_OR_FOLDER = typer.Option("--output", "-o", help="File to write; for a folder, a folder.")
CARD = typer.Option("--card", help="Markdown file to write: a model card.", dir_okay=False)
OUTPUT = typer.Option("--output", "-o", help="File to write.", dir_okay=False)
WEIGHTS = typer.Option(
    "--weights",
    help="For a model by name: DEFAULT, another name of torchvision's weights, a .pth or "
    ".safetensors file, or none (random).",
)
CUSTOM_OPS = typer.Option(
    "--custom-ops",
    help="Library of custom operators that ONNX Runtime is to load. Repeatable.",
    metavar="LIBRARY",
)
EXTERNAL = typer.Option("--external-data", help="Store tensors in a second file, OUTPUT.data.")


def table_console() -> Console:
    """Return the console for tables."""
    console = Console()
    # The width of a terminal does not limit tables in files and pipes.
    return console if console.is_terminal else Console(width=200)


def progress_bar(disabled: bool) -> Progress:
    """Return a progress bar on stderr, shown on terminals only."""
    console = Console(stderr=True)
    return Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        disable=disabled or not console.is_terminal,
        transient=True,
    )


def stages(progress: Progress) -> Callable[[str, int, int], None]:
    """Return a callback that shows stages on one bar, each from its start to its own total."""
    task = progress.add_task("", total=None)

    def advance(name: str, amount: int, total: int) -> None:
        current = progress.tasks[0]
        if current.total != total or current.completed + amount > total:
            progress.reset(task, total=total)
        progress.update(task, description=name, advance=amount)

    return advance


def parallel_stages(progress: Progress) -> Callable[[str, float, float], None]:
    """Return a callback that shows each stage on a bar of its own."""
    tasks: dict[str, TaskID] = {}

    def advance(name: str, amount: float, total: float) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], total=total, advance=amount)

    return advance


def command_line() -> str:
    """Return the command as it was typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def print_json(content: dict[str, Any]) -> None:
    """Print JSON on stdout; infinities and NaN become null."""

    def finite(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: finite(value) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return [finite(value) for value in item]
        if isinstance(item, float) and not math.isfinite(item):
            return None
        return str(item) if isinstance(item, Path) else item

    sys.stdout.write(json.dumps(finite(content), indent=2) + "\n")


def bounded(*models: Path) -> AbstractContextManager[None]:
    """Limit the memory of a command by the size of the models that it reads."""
    from qqonnx.model.load import file_bytes, read

    return limited_memory(sum(file_bytes(read(model), model) for model in models))

"""What the commands share: the options they have in common, and how they print."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qqonnx.cli.memory import limited_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

JSON = typer.Option("--json", help="Print the result as JSON on stdout.")
QUIET = typer.Option("--quiet", "-q", help="No progress bar and no table.")
OUTPUT = typer.Option("--output", "-o", help="The file to write.", dir_okay=False)
WEIGHTS = typer.Option(
    "--weights",
    help="For a model's name: DEFAULT, another name of torchvision's weights, a .pth or "
    ".safetensors file, or none (random).",
)
EXTERNAL = typer.Option("--external-data", help="Put tensors into a second file, OUTPUT.data.")


def table_console() -> Console:
    """Return the console that tables are printed on."""
    console = Console()
    # A table that is piped on is not cut to the width of some terminal.
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
    """Return what reports work in several stages, each of its own total, on a progress bar."""
    task = progress.add_task("", total=None)

    def advance(name: str, amount: int, total: int) -> None:
        current = progress.tasks[0]
        if current.total != total or current.completed + amount > total:
            progress.reset(task, total=total)
        progress.update(task, description=name, advance=amount)

    return advance


def print_json(content: dict[str, Any]) -> None:
    """Print JSON on stdout; infinite numbers and NaN become null."""

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
    """Bound the memory of a command by the size of the files that it reads."""
    from qqonnx.model.load import file_bytes, read

    return limited_memory(sum(file_bytes(read(model), model) for model in models))

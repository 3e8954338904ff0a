"""The command line: `qqonnx COMMAND`, and `convert-model` for `qqonnx convert`."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import typer

from qqonnx.cli.convert import convert
from qqonnx.cli.evaluate import evaluate
from qqonnx.cli.examine import inspect, restore, verify
from qqonnx.cli.export import export
from qqonnx.cli.report import report
from qqonnx.cli.study import study
from qqonnx.cli.sweep import sweep
from qqonnx.errors import OptionError, QqonnxError

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    help="Make an ONNX model several times smaller and still run it in a stock ONNX Runtime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for _command in (convert, export, evaluate, inspect, verify, restore, study, sweep, report):
    app.command()(_command)


FLAGS = {
    "as_float": "--float",
    "calibration.data": "--calibration",
    "calibration.plan": "--plan",
    "calibration.samples": "--calibration-samples",
    "target": "the target",
    "target.max_drop": "--max-drop",
    "target.metric": "--metric",
}
"""Flags whose names differ from those of the library's options."""


def main() -> None:
    """Run `qqonnx`."""
    _run(app)


def convert_model() -> None:
    """Run `convert-model`."""
    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    single.command()(convert)
    _run(single)


def _run(command: Callable[[], Any]) -> None:
    # Let SIGTERM run cleanup code, as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        command()
    except QqonnxError as error:
        print(f"error: {_in_flags(error)}", file=sys.stderr)  # noqa: T201 - one plain line
        sys.exit(2)
    except MemoryError:
        print("error: out of memory", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("QQONNX_TRACEBACK"):
            raise
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(  # noqa: T201
            f"error: a fault in qqonnx, please report it: {text} (QQONNX_TRACEBACK=1 shows where)",
            file=sys.stderr,
        )
        sys.exit(70)
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_flags(error: QqonnxError) -> str:
    """Return the text of an error, with the flag instead of the library's option."""
    if not isinstance(error, OptionError):
        return str(error)
    flag = "--" + error.field.replace("_", "-").replace(".", "-")
    return f"{FLAGS.get(error.field, flag)}: {error.problem}"

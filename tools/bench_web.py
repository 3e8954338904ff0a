"""Measure how much sooner the demo page answers with the compressed model, per connection speed.

    make test-web        # once: builds examples/web
    python tools/bench_web.py [--repeats 5] [--write docs/deployment.md]

Needs node, the packages of examples/web and Chromium. The page slows down its own downloads and
measures the time from the request for a model to its first answer. Loads alternate between the two
models; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sections import write_or_print

WEB = Path(__file__).parent.parent / "examples" / "web"
BITS = 4
"""The default bit-width of the page."""


class Quiet(SimpleHTTPRequestHandler):
    """A file server without log output."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def main() -> None:
    """Serve the page, load it, print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    measured = answer(WEB, "times.mjs", arguments.repeats)
    sizes = {name: (WEB / "models" / f"{name}.onnx").stat().st_size for name in ("float", BITS)}
    lines = ["| connection | first answer sooner × |", "|---|---:|"]
    for connection, times in measured.items():
        ratio = statistics.median(before / after for before, after in times)
        lines.append(f"| {connection} | {ratio:.1f} |")
    lines += [
        "",
        f"{BITS} bits with per-channel scales, {sizes[BITS] / 1e6:.2f} MB instead of "
        f"{sizes['float'] / 1e6:.2f} MB. ONNX Runtime Web's wasm, one thread, headless Chromium, "
        f"{platform.system()} {platform.machine()}; medians of {arguments.repeats}.",
    ]
    write_or_print(arguments.write, "web", "\n".join(lines))


def answer(folder: Path, script: str, *arguments: object) -> Any:
    """Serve a folder, and return what a script of examples/web/test prints: JSON.

    The script's arguments are the folder's URL and `arguments`.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    command = ["node", f"test/{script}", url, *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=WEB, check=True)
    finally:
        server.shutdown()
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()

"""How much sooner the demo page answers with the compressed model, over each connection.

    make test-web        # once: puts together examples/web
    python tools/bench_web.py [--repeats 5] [--write docs/deployment.md]

Takes node, examples/web's packages and Chromium. The page itself slows its downloads down, and
measures from the request for a model to its first answer; loads alternate, and figures are medians.
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

from sections import write_or_print

WEB = Path(__file__).parent.parent / "examples" / "web"
BITS = 4
"""What the page shows first."""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve the page, load it, print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(WEB)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    command = ["node", "test/times.mjs", url, str(arguments.repeats)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=WEB, check=True)
    server.shutdown()
    sizes = {name: (WEB / "models" / f"{name}.onnx").stat().st_size for name in ("float", BITS)}
    lines = ["| connection | answers sooner × |", "|---|---:|"]
    for connection, times in json.loads(done.stdout).items():
        ratio = statistics.median(before / after for before, after in times)
        lines.append(f"| {connection} | {ratio:.1f} |")
    lines += [
        "",
        f"{BITS} bits with scales, {sizes[BITS] / 1e6:.2f} MB instead of "
        f"{sizes['float'] / 1e6:.2f} MB; ONNX Runtime Web's wasm, one thread, in headless Chromium "
        f"on {platform.system()} {platform.machine()}; medians of {arguments.repeats}.",
    ]
    write_or_print(arguments.write, "web", "\n".join(lines))


if __name__ == "__main__":
    main()

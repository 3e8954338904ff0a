"""Feed damaged models to compress, inspect, restore and verify for a given time.

    python tools/fuzz.py [--seconds 600] [--start SEED]     seeded mutations, no further package
    python tools/fuzz.py --atheris [CORPUS]                 coverage-guided (pip install atheris)

Each batch of seeds runs in a process of its own with limited memory. A model that ends this
process, or takes more than a minute, is printed with its seed. The checks are those of
tests/compression/test_fuzz.py.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

BATCH = 500
HANG_SECONDS = 60


def main() -> None:
    """Fuzz until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--batch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("corpus", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.atheris:
        _guided(arguments.corpus)
    elif arguments.batch:
        _batch(arguments.start, arguments.batch)
    else:
        _batches(arguments.start, arguments.seconds)


def _batches(start: int, seconds: float) -> None:
    end, found = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with tempfile.NamedTemporaryFile() as log:
            command = [sys.executable, __file__, "--start", str(start), "--batch", log.name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            reached = int(Path(log.name).read_text("ascii") or start)
        if done.returncode:
            found += 1
            # Warnings of the libraries come first; the end has the reason.
            print(f"seed {reached}: exit code {done.returncode}\n{done.stderr[-2000:]}", flush=True)
        start = reached + 1
    print(f"seeds up to {start - 1}: {found} failed")
    sys.exit(bool(found))


def _batch(start: int, log: Path) -> None:
    from mutation import changed_bytes, changed_fields
    from test_fuzz import original, survives

    from qqonnx.cli.memory import limited_memory
    from qqonnx.model import compare

    compare.RUN_SECONDS = 2.0
    originals = [original(which) for which in range(4)]
    with limited_memory(0):
        for seed in range(start, start + BATCH):
            log.write_text(str(seed), "ascii")
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            change = changed_bytes if seed % 3 == 0 else changed_fields
            with tempfile.TemporaryDirectory() as folder:
                survives(change(originals[seed % 4], seed), Path(folder))
    faulthandler.cancel_dump_traceback_later()


def _guided(corpus: Path | None) -> None:
    import atheris

    with atheris.instrument_imports(include=["qqonnx", "onnx_ir"]):
        from test_fuzz import original, survives

    def one_input(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            survives(data, Path(folder))

    corpus = corpus or Path(tempfile.mkdtemp(prefix="qqonnx-corpus-"))
    for which in range(4):
        (corpus / f"original{which}.onnx").write_bytes(original(which))
    atheris.Setup([sys.argv[0], "-max_len=20000", "-timeout=60", str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

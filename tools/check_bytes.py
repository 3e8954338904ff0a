"""Record what `compress` writes for a grid of options, and compare with an earlier record.

    python tools/check_bytes.py record FILE.json [MODEL ...] [--bits 2,4] [--granularity scale]
    python tools/check_bytes.py compare FILE.json [MODEL ...] [--bits 2,4] [--granularity scale]

Use it before and after a change that must not change any file. The grid is every codebook method at
every bit-width and granularity, and three calibrated targets on synthetic inputs. MODEL is an ONNX
file; by default the bundled model, and EfficientNet-Lite0 where its packages are installed. A
codebook for each channel takes a second per thousand channels, so `--bits` and `--granularity` take
a part of the grid.

Two digests stand for a file: one of the whole file, one without qqonnx's own metadata. `compare`
prints each file whose model differs, and says how many differ in their metadata alone. It exits
with code 1 if a model differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from rich.progress import track

from qqonnx import Calibration, Options, QqonnxError, Target, compress, export
from qqonnx.codebooks import METHODS, method_named

if TYPE_CHECKING:
    from qqonnx.config import Granularity

DIGITS = Path(__file__).parent.parent / "models" / "digits_mobilenet_v3_small.onnx"
GRANULARITIES = ("tensor", "scale", "channel")
TARGETS = (2.5, 3.4, 4.4)
"""Bits of the file per weight."""

WORKERS = 2


@dataclass(frozen=True)
class Case:
    """One way to compress one model.

    Attributes:
        model: the ONNX file.
        method: a codebook method; None for a calibrated target.
        granularity: granularity of the codebook; not used with a target.
        bits: bit-width, or with a target the bits of the file per weight.
    """

    model: Path
    method: str | None
    granularity: Granularity
    bits: float

    @property
    def name(self) -> str:
        """The case as the record names it."""
        how = f"{self.method} {self.granularity}" if self.method else "target"
        return f"{self.model.stem} {how} {self.bits:g}"


def cases(model: Path, bits: list[int], granularities: list[Granularity]) -> list[Case]:
    """Return the grid for one model."""
    found = [Case(model, None, "tensor", target) for target in TARGETS]
    for method in METHODS:
        for width in bits:
            try:
                method_named(method).levels_for(width)
            except QqonnxError:
                continue
            found += [Case(model, method, granularity, width) for granularity in granularities]
    return found


def digests(case: Case) -> dict[str, str]:
    """Compress one model; return the SHA-256 of the file, and of the file without the record."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "small.onnx"
        if case.method is None:
            calibration = Calibration(None, 32, Target(bits=case.bits))
            compress(case.model, output, calibration=calibration, threads=1)
        else:
            options = Options(method=case.method, bits=int(case.bits), granularity=case.granularity)
            compress(case.model, output, options, threads=1)
        content = output.read_bytes()
    model = onnx.load_from_string(content)
    kept = [entry for entry in model.metadata_props if entry.key != "qqonnx"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    plain = model.SerializeToString(deterministic=True)
    return {"file": hashlib.sha256(content).hexdigest(), "model": hashlib.sha256(plain).hexdigest()}


def measured(grid: list[Case]) -> dict[str, dict[str, str]]:
    """Return the digests of every case by its name."""
    with ProcessPoolExecutor(WORKERS) as pool:
        found = list(track(pool.map(digests, grid), total=len(grid)))
    return {case.name: found for case, found in zip(grid, found, strict=True)}


def compared(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> int:
    """Print what differs; return how many models do."""
    both = [name for name in before if name in after]
    models = [name for name in both if before[name]["model"] != after[name]["model"]]
    files = [name for name in both if before[name]["file"] != after[name]["file"]]
    for name in models:
        print(f"differs: {name}")
    print(
        f"{len(both)} files compared: {len(models)} with another model, "
        f"{len(set(files) - set(models))} with other metadata only, {len(both) - len(files)} equal"
    )
    return len(models)


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("record", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--bits", default="1,2,3,4,5,6,7,8")
    parser.add_argument("--granularity", default=",".join(GRANULARITIES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models or [DIGITS, *_lite0(Path(folder))]
        bits = [int(number) for number in arguments.bits.split(",")]
        granularities = arguments.granularity.split(",")
        found = measured([case for model in models for case in cases(model, bits, granularities)])
    if arguments.verb == "record":
        arguments.record.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    elif compared(json.loads(arguments.record.read_text("utf-8")), found):
        sys.exit(1)


def _lite0(folder: Path) -> list[Path]:
    path = folder / "efficientnet_lite0.onnx"
    try:
        export("efficientnet_lite0", path)
    except QqonnxError as error:
        print(f"without EfficientNet-Lite0: {error}", file=sys.stderr)
        return []
    return [path]


if __name__ == "__main__":
    main()

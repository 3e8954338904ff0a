"""Compress the files of packages, and compare their outputs with the original model's."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from compatibility_inputs import runs
from compatibility_packages import SHIPPED, VERSIONS, Shipped, shipped_file

from qqonnx import Calibration, Options, Target, compress, evaluate
from qqonnx.calibration.synthetic.feeds import synthetic_feeds
from qqonnx.errors import QqonnxError
from qqonnx.inputs.read import model_inputs
from qqonnx.model.load import load, model_files, read

TARGET = 4.4

Result = dict[str, Any]


def names() -> list[str]:
    """Return the name of each file: pypi/PACKAGE/FILE."""
    return [f"pypi/{shipped.package}/{shipped.file}" for shipped in SHIPPED]


def measured(name: str, packages: Path) -> Result:
    """Return sizes and quality of a file at 8 bits, 4 bits with scales, and 4.4 bits calibrated.

    Half of the inputs calibrate and the others are evaluated. Without real inputs, both are
    synthetic: the first samples calibrate, and later ones are evaluated.
    """
    shipped = next(s for s in SHIPPED if name == f"pypi/{s.package}/{s.file}")
    file = shipped_file(shipped, packages)
    proto = onnx.load(file, load_external_data=False)
    opsets = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    result: Result = {
        "name": name,
        "version": VERSIONS[shipped.package],
        "task": shipped.task,
        "inputs": "synthetic" if shipped.inputs is None else shipped.inputs,
        "opset": opsets[0] if opsets else None,
        "bytes": sum(path.stat().st_size for path in model_files(read(file), file)),
        "evaluated": 0,
    }
    try:
        calibrating, evaluated = _halves(shipped, file, packages)
    except Exception as error:  # a failure is a result too
        return {**result, "failed": _line(error)}
    result["evaluated"] = len(evaluated)
    for label, options, calibration in (
        ("8 bits", Options(bits=8), None),
        ("4 bits", Options(bits=4, granularity="scale"), None),
        ("4.4 bits", Options(), Calibration(calibrating, target=Target(bits=TARGET))),
    ):
        # Old exporters list initializers among the inputs.
        options = replace(options, constant_initializers=True)
        result[label] = _compared(shipped, file, options, calibration, evaluated)
    return result


def _halves(shipped: Shipped, file: Path, packages: Path) -> tuple[Any, list[Any]]:
    if shipped.inputs is not None:
        feeds = runs(shipped, packages)
        return feeds[::2], feeds[1::2]
    # Calibration draws the first 128 synthetic samples.
    model = load(file)
    feeds, _ = synthetic_feeds(model, model_inputs(model), 160)
    return None, feeds[-max(len(feeds) // 5, 1) :]


def _compared(
    shipped: Shipped,
    file: Path,
    options: Options,
    calibration: Calibration | None,
    evaluated: list[Any],
) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "small.onnx"
        try:
            report = compress(file, output, options, calibration=calibration)
            evaluation = evaluate(output, evaluated, baseline=file, threads=1)
        except QqonnxError as error:
            return {"failed": _line(error).replace(str(file), file.name)}
        _, row = evaluation.rows
        outputs = row.outputs
        result: dict[str, Any] = {
            "bytes": report.bytes_after,
            "weights": len(report.weights),
            "verified": report.outputs.equal,
            "reason": report.outputs.reason,
            "notes": list(evaluation.notes),
        }
        if outputs:
            agreements = [
                entry.agreement
                for entry in outputs
                if entry.agreement is not None and not shipped.features
            ]
            result["agreement"] = min(agreements, default=None)
            result["cosine"] = min(entry.cosine for entry in outputs)
            result["relative_error"] = max(entry.relative_error for entry in outputs)
        return result


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:400].removeprefix("QqonnxError: ")

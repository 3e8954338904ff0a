"""Check a written file: every decoded weight bit for bit, then outputs in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from qqonnx.errors import QqonnxError
from qqonnx.graph.load import load
from qqonnx.graph.restore import compressed_weights, decoded_tensor, restore_weights
from qqonnx.graph.save import save
from qqonnx.quantize import digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir

TOLERANCE = 1e-3
"""Largest difference of outputs, relative to the largest absolute one.

Equal weights can still give outputs that differ in rounding, where ONNX Runtime orders the sums
of a folded weight otherwise than those of a plain one.
"""

SYMBOLIC_SIZE = 8
"""Size given to an unnamed or symbolic dimension when making up inputs; the first one is 1."""

Inputs = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class OutputCheck:
    """How the outputs of two models compare on one made-up input.

    Attributes:
        max_difference: largest absolute difference; None if they could not be compared.
        magnitude: largest absolute output of the reference.
        reason: why they could not be compared; None if they were.
    """

    max_difference: float | None
    magnitude: float | None
    reason: str | None = None

    @property
    def equal(self) -> bool:
        """Whether the outputs agree to `TOLERANCE`."""
        if self.max_difference is None or self.magnitude is None:
            return False
        return self.max_difference <= TOLERANCE * max(self.magnitude, 1e-6)


def verify_weights(path: Path, expected: Mapping[str, bytes]) -> None:
    """Check that the file's decode nodes give exactly the weights that were planned.

    Args:
        path: the written file.
        expected: SHA-256 of each weight's bytes, by name.

    Raises:
        QqonnxError: a weight is missing or differs; the message names it.
    """
    model = load(path)
    weights, _ = compressed_weights(model)
    found = {weight.name: weight for weight in weights}
    for name, wanted in expected.items():
        if name not in found:
            raise QqonnxError(f"{path}: weight {name!r} is not in the file")
        if digest(decoded_tensor(found[name]).numpy()) != wanted:
            raise QqonnxError(f"{path}: weight {name!r} does not decode to what was planned")


def verify_outputs(path: Path) -> OutputCheck:
    """Compare a compressed file with the same model holding the decoded weights as floats.

    Raises:
        QqonnxError: ONNX Runtime does not load the file, or the outputs differ.
    """
    model = load(path)
    external = path.with_name(f"{path.name}.data").exists()
    restore_weights(model)
    plain = path.with_name(f"{path.name}.plain.onnx")
    try:
        save(model, plain, external_data=external)
        check = compare_outputs(plain, path)
    finally:
        plain.unlink(missing_ok=True)
        plain.with_name(f"{plain.name}.data").unlink(missing_ok=True)
    if check.reason is None and not check.equal:
        raise QqonnxError(
            f"{path}: outputs differ by {check.max_difference:.2g} from those of the same model "
            f"with plain float weights, where they reach {check.magnitude:.2g}"
        )
    return check


def compare_outputs(reference: Path, other: Path) -> OutputCheck:
    """Run two models on the same made-up inputs.

    Inputs are seeded normal noise for floats and zeros otherwise, of batch size 1.

    Raises:
        QqonnxError: ONNX Runtime does not load `other`, or their outputs differ in shape.
    """
    second = _session(other)
    try:
        first = _session(reference)
        inputs = _made_up_inputs(first)
        expected = first.run(None, inputs)
    except Exception as error:
        return OutputCheck(None, None, f"made-up inputs do not run: {_first_line(error)}")
    try:
        actual = second.run(None, inputs)
    except Exception as error:
        raise QqonnxError(f"{other}: does not run: {_first_line(error)}") from error
    difference = magnitude = 0.0
    for left, right in zip(expected, actual, strict=True):
        if not isinstance(left, np.ndarray) or left.dtype.kind not in "fiub":
            continue
        if left.shape != right.shape:
            raise QqonnxError(f"{other}: output shape {right.shape}, expected {left.shape}")
        if left.size:
            exact, found = left.astype(np.float64), right.astype(np.float64)
            same = (exact == found) | (np.isnan(exact) & np.isnan(found))
            gaps = np.abs(np.where(same, 0.0, exact - found))
            difference = max(difference, float(gaps.max()))
            magnitude = max(magnitude, float(np.abs(np.nan_to_num(exact)).max()))
    return OutputCheck(difference, magnitude)


def same_weights(first: ir.Model, second: ir.Model) -> list[str]:
    """Return the names of float tensors, decoded if need be, whose bytes differ in two models."""
    left, right = _digests(first), _digests(second)
    names = left.keys() & right.keys()
    return sorted(name for name in names if left[name] != right[name])


def _digests(model: ir.Model) -> dict[str, bytes]:
    found = {}
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None and value.const_value.dtype.is_floating_point():
                found[name] = digest(value.const_value.numpy())
    if "qqonnx" in model.metadata_props:
        for weight in compressed_weights(model)[0]:
            found[weight.name] = digest(decoded_tensor(weight).numpy())
    return found


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise QqonnxError(f"{path}: ONNX Runtime does not load it: {_first_line(error)}") from error


def _made_up_inputs(session: ort.InferenceSession) -> Inputs:
    random = np.random.default_rng(0)
    inputs = {}
    for entry in session.get_inputs():
        known = {"tensor(float)": np.float32, "tensor(double)": np.float64}
        known["tensor(float16)"] = np.float16
        shape = [
            size if isinstance(size, int) and size > 0 else (1 if axis == 0 else SYMBOLIC_SIZE)
            for axis, size in enumerate(entry.shape)
        ]
        if entry.type in known:
            inputs[entry.name] = random.standard_normal(shape).astype(known[entry.type])
        elif entry.type == "tensor(bool)":
            inputs[entry.name] = np.ones(shape, bool)
        else:
            name = entry.type.removeprefix("tensor(").removesuffix(")")
            inputs[entry.name] = np.zeros(shape, name)
    return inputs


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

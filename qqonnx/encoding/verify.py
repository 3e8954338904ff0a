"""Check a written file: every decoded weight bit for bit, then outputs in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qqonnx.encoding.encode import digest
from qqonnx.encoding.matmulnbits import scales_of_blocks
from qqonnx.encoding.restore import (
    blocked_weights,
    compressed_weights,
    decoded_tensor,
    restore_weights,
)
from qqonnx.encoding.rewrite import METADATA_KEY
from qqonnx.errors import QqonnxError
from qqonnx.model.compare import OutputCheck, compare_outputs
from qqonnx.model.load import read
from qqonnx.model.save import data_file, write, written_bytes
from qqonnx.model.scopes import named_float_constants, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray


FOLDED_UP_TO = 2**29
"""Bytes of the decoded model up to which outputs are compared with the decoding folded.

While ONNX Runtime folds, it holds every intermediate result of every weight, several times the
decoded model. Without folding it decodes a weight when it is used, and lets it go.
"""


@dataclass(frozen=True)
class WeightCheck:
    """How the float tensors of two models compare, those of compressed weights decoded.

    Attributes:
        same: number of tensors whose bytes are the same.
        different: names of those whose bytes differ.
        only_first: names of those that only the first model has.
        only_second: names of those that only the second model has.
    """

    same: int
    different: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether both models have the same tensors."""
        return not (self.different or self.only_first or self.only_second)


def verify(path: Path, expected: Mapping[str, bytes]) -> OutputCheck:
    """Check a file's weights and outputs; every weight is decoded once.

    The decode nodes must give exactly the weights that were planned, and the outputs must be
    those of the same model holding the decoded weights as floats. A model that ONNX Runtime's
    CPU provider does not load with plain floats either, such as one that computes in bfloat16,
    is not compared; the check says so.

    Args:
        path: the written file.
        expected: SHA-256 of each weight's bytes, by name.

    Raises:
        QqonnxError: a weight is missing or differs (the message names it), ONNX Runtime does not
            load the file, or the outputs differ.
    """
    model = read(path)
    found = {name: blocked.digest() for name, blocked in blocked_weights(model).items()}

    def decoded(name: str, values: NDArray[Any]) -> None:
        found[name] = digest(values)

    restore_weights(model, decoded)
    plain = path.with_name(f"{path.name}.plain.onnx")
    try:
        # As external data, the weights are decoded and written one by one.
        write(model, plain, external_data=True)
        del model
        for name, wanted in expected.items():
            if name not in found:
                raise QqonnxError(f"{path}: weight {name!r} is not in the file")
            if found[name] != wanted:
                raise QqonnxError(f"{path}: weight {name!r} does not decode to what was planned")
        return _compared(plain, path)
    finally:
        plain.unlink(missing_ok=True)
        data_file(plain).unlink(missing_ok=True)


def _compared(plain: Path, path: Path) -> OutputCheck:
    folded = written_bytes(plain) <= FOLDED_UP_TO
    check = compare_outputs(plain, path, optimized=folded)
    if folded and check.reason is None and not check.equal:
        # Rounding can decide which box is kept or which of two outputs is the greater. With
        # nothing folded and nothing packed, both models run the same kernels.
        check = compare_outputs(plain, path, optimized=False)
    if check.reason is None and not check.equal:
        raise QqonnxError(
            f"{path}: outputs differ by {check.max_difference:.2g} from those of the same model "
            f"with plain float weights, where they reach {check.magnitude:.2g}"
        )
    return check


def compare_weights(first: ir.Model, second: ir.Model) -> WeightCheck:
    """Compare the float tensors of two models by name and bit for bit."""
    left, right = _digests(first), _digests(second)
    both = left.keys() & right.keys()
    different = {name for name in both if left[name] != right[name]}
    return WeightCheck(
        same=len(both) - len(different),
        different=tuple(sorted(different)),
        only_first=tuple(sorted(left.keys() - right.keys())),
        only_second=tuple(sorted(right.keys() - left.keys())),
    )


def _digests(model: ir.Model) -> dict[str, bytes]:
    packed = METADATA_KEY in model.metadata_props
    weights = compressed_weights(model)[0] if packed else []
    blocked = blocked_weights(model) if packed else {}
    internal = {constant for weight in weights for constant in weight.constants}
    internal |= scales_of_blocks(model)
    plain = {
        name: digest(tensor_of(value).numpy())
        for name, value, _ in named_float_constants(model)
        if value not in internal
    }
    plain |= {name: weight.digest() for name, weight in blocked.items()}
    return plain | {weight.name: digest(decoded_tensor(weight).numpy()) for weight in weights}

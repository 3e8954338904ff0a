"""Verify a written file: decoded weights bit for bit, and outputs in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qqonnx.encoding.locate import decode_graphs, decoder
from qqonnx.encoding.matmulnbits import block_nodes, block_scales, read_blocks
from qqonnx.encoding.record import is_compressed, read_record
from qqonnx.encoding.restore import restore_weights
from qqonnx.encoding.stored import digest
from qqonnx.errors import QqonnxError
from qqonnx.model.compare import TOLERANCE, OutputCheck, compare_outputs
from qqonnx.model.load import read
from qqonnx.model.save import data_file, write, written_bytes
from qqonnx.model.scopes import WEIGHT_TYPES, named_constants, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

_TOLERANCES = {"float16": 1e-2, "bfloat16": 8e-2}
"""Tolerances of outputs of models with weights of these dtypes.

ONNX Runtime computes the product of a level and a scale in float32, and need not round it to the
dtype of the weight, as it rounds a plain weight.
"""

NOT_ASKED = "not asked for"
"""Reason of a check that the caller does not want."""

FOLDED_UP_TO = 2**29
"""Largest decoded model, in bytes, that is folded when outputs are compared.

While ONNX Runtime folds, it keeps all intermediate results of all weights: several times the
decoded model. Without folding, it decodes each weight when it is used, and then releases it.
"""


@dataclass(frozen=True)
class WeightCheck:
    """Comparison of the float and 8-bit tensors of two models, with compressed weights decoded.

    Attributes:
        same: number of tensors with the same bytes.
        different: names of tensors with different bytes.
        only_first: names of tensors that only the first model has.
        only_second: names of tensors that only the second model has.
    """

    same: int
    different: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether both models have the same tensors."""
        return not (self.different or self.only_first or self.only_second)


def verify_file(
    path: Path,
    planned: Mapping[str, bytes],
    *,
    run: bool = True,
    feed: dict[str, NDArray[Any]] | None = None,
) -> OutputCheck:
    """Verify the weights and the outputs of a written file; every weight is decoded once.

    The decoded weights must be bit-identical to the planned ones. The outputs must equal those of
    the same model with the decoded weights as plain floats. If ONNX Runtime does not load or run
    that model either, for example because it computes in bfloat16, the result has the reason.

    Args:
        path: the written file.
        planned: SHA-256 of the bytes of each planned weight, by name.
        run: whether the outputs are compared too.
        feed: inputs for a model that does not run on synthetic ones.

    Raises:
        QqonnxError: a weight is missing or differs, ONNX Runtime does not load or run the file, or
            the outputs differ.
    """
    model = read(path)
    digests: dict[str, bytes] = {}
    tolerances = {TOLERANCE}

    def add_digest(name: str, values: NDArray[Any]) -> None:
        digests[name] = digest(values)
        tolerances.add(_TOLERANCES.get(values.dtype.name, TOLERANCE))

    restore_weights(model, add_digest)
    plain = path.with_name(f"{path.name}.plain.onnx")
    try:
        # With external data, weights are decoded and written one by one.
        write(model, plain, external_data=True)
        del model
        for name, expected in planned.items():
            if name not in digests:
                raise QqonnxError(f"{path}: weight {name!r} is not in the file")
            if digests[name] != expected:
                raise QqonnxError(f"{path}: weight {name!r} does not decode to the planned values")
        if not run:
            return OutputCheck(None, None, NOT_ASKED)
        return _checked_outputs(plain, path, max(tolerances), feed)
    finally:
        plain.unlink(missing_ok=True)
        data_file(plain).unlink(missing_ok=True)


def _checked_outputs(
    plain: Path, path: Path, tolerance: float, feed: dict[str, NDArray[Any]] | None
) -> OutputCheck:
    folded = written_bytes(plain) <= FOLDED_UP_TO
    compare = partial(compare_outputs, plain, path, feed=feed, tolerance=tolerance)
    check = compare(optimized=folded)
    if folded and check.reason is None and not check.equal:
        # Rounding can decide which box is kept or which of two outputs is larger. Without
        # optimization both models run the same kernels.
        check = compare(optimized=False)
    if check.reason is None and not check.equal:
        raise QqonnxError(
            f"{path}: outputs differ by {check.max_difference:.2g} from those of the same model "
            f"with plain float weights, whose largest value is {check.magnitude:.2g}"
        )
    return check


def compare_weights(first: ir.Model, second: ir.Model) -> WeightCheck:
    """Compare the float and 8-bit tensors of two models by name and bit for bit."""
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
    digests: dict[str, bytes] = {}
    internal = block_scales(model)
    if is_compressed(model):
        records = read_record(model).weights
        blocks = block_nodes(model, records)
        for name, nodes in blocks.items():
            digests[name] = read_blocks(nodes[0], records[name].error).digest()
        for graph in decode_graphs(model, records.keys() - blocks.keys()):
            digests[graph.name] = digest(decoder(graph)())
            internal |= set(graph.constants)
    plain = {
        name: digest(tensor_of(value).numpy())
        for name, value, _ in named_constants(model, WEIGHT_TYPES)
        if value not in internal
    }
    return plain | digests

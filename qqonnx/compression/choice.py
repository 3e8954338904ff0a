"""Choose the weights of a model and what each is to become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import onnx_ir as ir

from qqonnx.codebooks import extremes
from qqonnx.config import plan_weights
from qqonnx.errors import NothingToCompressError, OptionError, QqonnxError
from qqonnx.integer.layers import largest_level, multiplied_as_integers
from qqonnx.model.folding import fold_weights
from qqonnx.model.load import fix_initializers
from qqonnx.model.quantized import integer_weights
from qqonnx.model.scopes import INTEGER_TYPES, constants_of, tensor_of
from qqonnx.model.select import Skipped, select
from qqonnx.model.tying import tie_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qqonnx.config import Options, WeightPlan
    from qqonnx.model.select import Weight


@dataclass(frozen=True)
class ChosenWeights:
    """The weights of a model.

    Attributes:
        plans: the float weights that are compressed, and how.
        quantized: the weights of int8 and uint8 that are compressed, of a model that is quantized
            already, and how.
        biases: biases that calibration rounds to float16 at least; none without calibration.
        skipped: the other float tensors.
        integers: other weights that are quantized already.
        bytes_removed: bytes of the constants that were folded away or tied, less those by which
            integers grew to floats.
    """

    plans: tuple[WeightPlan, ...]
    biases: tuple[Weight, ...]
    skipped: tuple[Skipped, ...]
    integers: tuple[Skipped, ...]
    quantized: tuple[WeightPlan, ...]
    bytes_removed: int


def choose_weights(model: ir.Model, options: Options, *, calibrated: bool) -> ChosenWeights:
    """Fold weights that are computed, store equal ones once, and plan each weight.

    Args:
        model: the model, changed in place; it computes the same.
        options: how weights are compressed.
        calibrated: whether activations decide the levels.

    Raises:
        OptionError: a pattern matches no weight.
    """
    if options.constant_initializers:
        fix_initializers(model)
    bytes_before = _constant_bytes(model)
    fold_weights(model)
    planned = _planned(model, options, calibrated=calibrated)
    chosen = _tied(model, options, planned, calibrated=calibrated)
    return replace(chosen, bytes_removed=bytes_before - _constant_bytes(model))


def nothing_to_compress(
    source: Path, chosen: ChosenWeights, skipped: Sequence[Skipped]
) -> NothingToCompressError:
    """Return the error of a model without weights, with the reasons for its tensors."""
    if chosen.integers:
        kinds = "; ".join(sorted({entry.reason for entry in chosen.integers}))
        return NothingToCompressError(
            f"{source}: holds no float weight to compress: {len(chosen.integers)} weights are "
            f"integers ({kinds})"
        )
    reasons = "; ".join(sorted({entry.reason for entry in skipped})) or "no float initializer"
    return NothingToCompressError(f"{source}: holds no weight to compress ({reasons})")


def _constant_bytes(model: ir.Model) -> int:
    return sum(tensor_of(value).nbytes for value, _ in constants_of(model))


def _planned(model: ir.Model, options: Options, *, calibrated: bool) -> ChosenWeights:
    with_bias = options.include_bias or calibrated
    selected, skipped = select(model, include_bias=with_bias, include=options.include)
    names = [*(weight.name for weight in selected), *(entry.name for entry in skipped)]
    for pattern in options.include:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise OptionError("include", f"no float tensor has a name like {pattern}")
    biases = [weight for weight in selected if _is_only_rounded(weight, options)]
    weights = [w for w in selected if w not in biases]
    multiplied = multiplied_as_integers(weights) if options.compute != "float" else []
    grids = {w.name: largest_level(w, options.int8_range) for w in multiplied}
    quantized, integers = integer_weights(model)
    plans, left_out = plan_weights([*weights, *quantized], options, grids)
    of_integers = [plan for plan in plans if plan.weight.tensor.dtype in INTEGER_TYPES]
    plans, defects = _finite([plan for plan in plans if plan not in of_integers])
    skipped += left_out + defects
    return ChosenWeights(
        tuple(plans), tuple(biases), tuple(skipped), tuple(integers), tuple(of_integers), 0
    )


def _tied(
    model: ir.Model, options: Options, chosen: ChosenWeights, *, calibrated: bool
) -> ChosenWeights:
    """Store weights once that are equal and planned alike; their users may differ then."""
    kinds = {p.weight.value: (p.method, p.levels, p.granularity, p.grid) for p in chosen.plans}
    by_tensor = all(plan.granularity == "tensor" for plan in chosen.plans)
    removed = tie_weights(
        model,
        [plan.weight for plan in chosen.plans],
        lambda weight: (*kinds[weight.value], weight.is_bias),
        same_channels=calibrated or not by_tensor,
    )
    if not removed:
        return chosen
    with_bias = options.include_bias or calibrated
    selected, _ = select(model, include_bias=with_bias, include=options.include)
    weights = {weight.value: weight for weight in selected}
    kept = [plan for plan in chosen.plans if plan.weight.value in weights]
    plans = [replace(plan, weight=weights[plan.weight.value]) for plan in kept]
    biases = [weights[bias.value] for bias in chosen.biases]
    return replace(chosen, plans=tuple(plans), biases=tuple(biases))


def _is_only_rounded(weight: Weight, options: Options) -> bool:
    named = any(fnmatchcase(weight.name, pattern) for pattern in options.include)
    return weight.is_bias and not options.include_bias and not named


def _finite(plans: Sequence[WeightPlan]) -> tuple[list[WeightPlan], list[Skipped]]:
    """Return the plans of finite weights, and the other weights."""
    finite, defects = [], []
    for plan in plans:
        weight = plan.weight
        try:
            extremes(weight.tensor.numpy().reshape(-1))
            finite.append(plan)
        except QqonnxError as error:
            nbytes = weight.tensor.nbytes
            defects.append(Skipped(weight.name, weight.shape, nbytes, str(error), is_defect=True))
        if isinstance(weight.tensor, ir.ExternalTensor):
            weight.tensor.release()
    return finite, defects

"""What the user asks for, and what each weight is to become."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from qqonnx.codebooks import MAX_LEVELS, method_named
from qqonnx.errors import OptionError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qqonnx.model.select import Skipped, Weight

    CalibrationData = str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None
    Progress = Callable[[str, int, int], None]
    """Called with what is being done, an amount, and the total of the amounts."""

Granularity = Literal["tensor", "channel", "scale"]
Operators = Literal["standard", "matmulnbits"]
Compute = Literal["float", "int8", "int8-static", "int8-dynamic"]
Value = TypeVar("Value")

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
OPERATORS: tuple[Operators, ...] = get_args(Operators)
COMPUTE: tuple[Compute, ...] = get_args(Compute)

INTEGER_RANGES = (63, 127)
"""Largest absolute integer levels: x86 without VNNI saturates beyond 64."""

AUTO = "auto"
"""The default method; see `is_automatic`."""
PLAIN_METHOD = "kmeans"
"""The codebook method where codebooks are plain and none is named."""

DEFAULT_BITS = 8
DEFAULT_GRANULARITY: Granularity = "tensor"


@dataclass(frozen=True)
class Options:
    """How weights are compressed.

    Attributes:
        method: "auto" (GPTQ, with levels distributed over the weights; the default without a
            granularity), or the name of a codebook method.
        bits: bit-width, 1 to 8, by default 8; with "auto", the mean over all weights.
        levels: number of levels, 2 to 256, instead of `bits`.
        granularity: of a codebook method: "tensor" (one codebook), "channel" (one for each output
            channel) or "scale" (one codebook, and a scale for each output channel).
        skip: patterns (`*`, `?`, `[...]`) of names of weights that stay as they are.
        bits_for: bit-widths by name pattern; the last matching pattern decides.
        include_bias: compress biases too.
        include: patterns of names of other float tensors to compress, such as position tables.
        constant_initializers: compress initializers that are inputs too, and no longer are then.
        min_size: smallest number of elements of a tensor that is compressed.
        operators: "standard" (standard operators decode) or "matmulnbits" (weights of MatMul and
            Gemm in blocks, for ONNX Runtime's own operator, which keeps them packed).
        compute: "float", "int8-static", "int8-dynamic", or "int8": static if most layers are Conv.
        int8_range: largest absolute integer level, 63 or 127.
    """

    method: str | None = None
    bits: int | None = None
    levels: int | None = None
    granularity: Granularity | None = None
    skip: Sequence[str] = ()
    bits_for: Mapping[str, int] = field(default_factory=dict)
    include_bias: bool = False
    include: Sequence[str] = ()
    constant_initializers: bool = False
    min_size: int = 1024
    operators: Operators = "standard"
    compute: Compute = "float"
    int8_range: int = INTEGER_RANGES[0]


@dataclass(frozen=True)
class Target:
    """A file size or an accuracy to meet; exactly one of the four.

    Attributes:
        size: bytes of the file.
        bits: bits of the file per weight; the rest of the file counts up to a tenth of them.
        ratio: bytes of the input file over bytes of the output file.
        max_drop: largest share, between 0 and 1, of answers that may change, or of the float
            model's value of `metric` that may be lost.
        metric: for `max_drop`: "module:function", the name of an entry point of the group
            `qqonnx.metrics`, a function, or a `Metric`; None for answers (the classes of samples,
            tokens or pixels).
    """

    size: int | None = None
    bits: float | None = None
    ratio: float | None = None
    max_drop: float | None = None
    metric: Any = None

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if name != "metric"}
        given = {name: value for name, value in numbers.items() if value is not None}
        if len(given) != 1:
            raise OptionError("target", "is exactly one of size, bits, ratio and max_drop")
        ((name, value),) = given.items()
        if not 0 < value < float("inf"):
            raise OptionError(f"target.{name}", f"must be a positive number, not {value}")
        if self.metric is not None and self.max_drop is None:
            raise OptionError("target.metric", "would be ignored: only max_drop takes a metric")
        if self.max_drop is not None and self.max_drop >= 1:
            raise OptionError("target.max_drop", "must be below 100 %")

    def nbytes(self, bytes_before: int, weights: int, rest: int) -> int:
        """Return the largest file size in bytes; not for a target that is a maximum drop.

        Args:
            bytes_before: bytes of the input file.
            weights: number of weights in the model.
            rest: bytes of the output file beside its weights.
        """
        if self.size is not None:
            return self.size
        if self.bits is not None:
            size = int(self.bits * weights / 8)
            return size + max(rest - size // 10, 0)
        assert self.ratio is not None
        return int(bytes_before / self.ratio)


@dataclass(frozen=True)
class Calibration:
    """How levels are calibrated on activations.

    Attributes:
        data: inputs as `read_inputs` takes them, or the inputs of each run; None for synthetic
            ones (data-free).
        samples: largest number of samples.
        target: a size or accuracy to meet; without one, `Options` says how many levels.
        plan: JSON file with the levels of each weight: written with a target, read without one.
        finetune: fine-tune levels, scales and biases end to end afterwards (needs PyTorch).
        loss: factors of the outputs in the loss that decides how many levels a weight gets, by
            name of the output; 1 by default, 0 leaves an output out.
        time_limit: seconds that calibration may take here; it uses fewer samples, or none.
    """

    data: CalibrationData = None
    samples: int = 256
    target: Target | None = None
    plan: str | os.PathLike[str] | None = None
    finetune: bool = False
    loss: Mapping[str, float] = field(default_factory=dict)
    time_limit: float | None = None

    @property
    def has_max_drop(self) -> bool:
        """Whether the target is a largest drop."""
        return self.target is not None and self.target.max_drop is not None


@dataclass(frozen=True)
class WeightPlan:
    """How one weight is to be stored.

    Attributes:
        weight: the weight.
        method: name of the codebook method.
        levels: largest number of levels of a codebook.
        granularity: as asked for, but "tensor" for a weight without a channel axis.
        fixed: whether calibration must keep the levels.
        observed: whether calibration looks at the weight's inputs.
        grid: largest absolute level of a weight that is multiplied as an integer; else None.
    """

    weight: Weight
    method: str
    levels: int
    granularity: str
    fixed: bool = False
    observed: bool = True
    grid: int | None = None


def is_automatic(options: Options) -> bool:
    """Return whether calibration chooses codebooks, levels and scales of each weight."""
    plain = options.granularity is not None or options.operators != "standard"
    return options.method == AUTO or (options.method is None and not plain)


def check_options(options: Options, calibration: Calibration | None) -> None:
    """Refuse options that are out of range, or that would be ignored.

    Raises:
        OptionError: an option is unknown, out of range, or of no effect beside another one.
    """
    method = method_named(_method(options))
    widths = [*options.bits_for.values()]
    if options.levels is None:
        widths.append(_or_default(options.bits, DEFAULT_BITS))
    for bits in widths:
        method.levels_for(bits)
    if options.levels is not None and not 2 <= options.levels <= MAX_LEVELS:
        raise OptionError("levels", f"must be 2 to {MAX_LEVELS}, not {options.levels}")
    for name, value, known in (
        ("granularity", _or_default(options.granularity, DEFAULT_GRANULARITY), GRANULARITIES),
        ("operators", options.operators, OPERATORS),
        ("compute", options.compute, COMPUTE),
        ("int8_range", options.int8_range, INTEGER_RANGES),
    ):
        if value not in known:
            raise OptionError(name, f"must be one of {', '.join(map(str, known))}, not {value!r}")
    for name, reason in _ignored(options, calibration).items():
        if getattr(options, name) not in (None, {}):
            raise OptionError(name, f"would be ignored: {reason}")
    if options.operators != "standard":
        reason = f"{options.operators} takes neither calibration nor a target"
        if calibration is not None or options.method == AUTO:
            raise OptionError("operators", reason)
    if options.compute != "float":
        finetuned = calibration is not None and calibration.finetune
        if options.operators != "standard" or finetuned:
            raise OptionError("compute", f"{options.compute} takes standard operators, untuned")


def plan_weights(
    weights: Sequence[Weight], options: Options, grids: Mapping[str, int] | None = None
) -> tuple[list[WeightPlan], list[Skipped]]:
    """Return a plan for each weight that is compressed, and the other weights with a reason.

    Raises:
        OptionError: a pattern of `skip` or `bits_for` matches no weight.
    """
    # The command line reads `Options` for its help, which must not wait for onnx to load.
    from qqonnx.model.select import Skipped

    for name, patterns in (("skip", options.skip), ("bits_for", options.bits_for)):
        for pattern in patterns:
            if not any(fnmatchcase(weight.name, pattern) for weight in weights):
                raise OptionError(name, f"no weight has a name like {pattern}")
    plans, skipped = [], []
    for weight in weights:
        size = prod(weight.shape)
        reason = None
        if any(fnmatchcase(weight.name, pattern) for pattern in options.skip):
            reason = "skipped by name"
        elif size < max(options.min_size, 1):
            reason = f"fewer than {options.min_size} elements"
        if reason:
            skipped.append(Skipped(weight.name, weight.shape, weight.tensor.nbytes, reason))
            continue
        granularity: str = _or_default(options.granularity, DEFAULT_GRANULARITY)
        if weight.channel_axis is None or len(weight.shape) < 2:
            granularity = "tensor"
        fixed = any(fnmatchcase(weight.name, pattern) for pattern in options.bits_for)
        levels = options.levels
        if levels is None or fixed:
            levels = method_named(_method(options)).levels_for(bits_of(weight, options))
        grid = (grids or {}).get(weight.name)
        kind = granularity if grid is None else "scale"
        plans.append(WeightPlan(weight, _method(options), levels, kind, fixed, grid=grid))
    return plans, skipped


def bits_of(weight: Weight, options: Options) -> int:
    """Return the bit-width that the options give a weight; `levels` is not looked at."""
    matching = (n for pattern, n in options.bits_for.items() if fnmatchcase(weight.name, pattern))
    return [_or_default(options.bits, DEFAULT_BITS), *matching][-1]


def _or_default(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def _method(options: Options) -> str:
    return PLAIN_METHOD if options.method in (None, AUTO) else options.method


def _ignored(options: Options, calibration: Calibration | None) -> dict[str, str]:
    """Return the options that have no effect beside the others, and why."""
    ignored = {}
    if options.levels is not None:
        ignored["bits"] = "levels is given"
    if options.compute != "float" and options.granularity != "scale":
        ignored["granularity"] = "integer weights have a scale for each channel"
    if options.operators == "matmulnbits":
        ignored["levels"] = "matmulnbits takes bits"
    if options.method == AUTO:
        ignored["granularity"] = "the method auto chooses where a channel gets a scale"
    if calibration is not None:
        reason = "calibration chooses codebooks, and where a channel gets a scale"
        ignored["granularity"] = reason
        if options.method != AUTO:
            ignored["method"] = reason
        if calibration.target is not None or calibration.plan is not None:
            source = "target" if calibration.target is not None else "plan"
            reason = f"the {source} decides how many levels a weight has"
            ignored |= dict.fromkeys(("bits", "levels", "bits_for"), reason)
    return ignored

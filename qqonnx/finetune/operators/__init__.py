"""ONNX operators in PyTorch, with gradients: a table by name, one small function each.

An operator takes its node's attributes and its inputs (None where one is left out) and gives one
tensor, or a tuple where it has several outputs. The operators follow opset 13 and later, where a
newer opset moved an attribute to an input both are read. What a function cannot do (a mode that
no exporter writes), it refuses with `NotImplementedError`.

The package imports PyTorch: import it inside the functions that need it.
"""

from qqonnx.finetune.operators.elementwise import ELEMENTWISE
from qqonnx.finetune.operators.layers import LAYERS
from qqonnx.finetune.operators.operator import Operator, tensor_of
from qqonnx.finetune.operators.reductions import REDUCTIONS
from qqonnx.finetune.operators.resizing import RESIZING
from qqonnx.finetune.operators.shaping import SHAPING

OPERATORS: dict[str, Operator] = {**ELEMENTWISE, **LAYERS, **REDUCTIONS, **RESIZING, **SHAPING}
"""Every operator of the default domain that runs in PyTorch."""

__all__ = ["OPERATORS", "Operator", "tensor_of"]
